/*
 * The floor: the least a forwarder between two ports can do. Whole frames out of one read, learn the source,
 * look up the destination, one write. No queue, no counter, no limit on anything; peers are trusted. Towards a tun there
 * is no look-up either: the Ethernet header is cut off, and the way back puts a fixed one in front. It answers no ARP.
 *
 *     floor PORT PORT      PORT = stream:PATH (listens, one peer) | tap:IFNAME | tun:IFNAME
 *
 * It ends when a peer does. On a stream a frame follows its length, 4 bytes big-endian, as in QEMU's -netdev stream.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ_SIZE = 65536, MAX_FRAME = 69632, BATCH = 64, TABLE = 1024, HEADER = 14 };

struct port {
    int fd;
    int is_device;
    size_t cut; /* bytes of a frame the device does not have: a tun's Ethernet header */
    size_t have; /* bytes of an unfinished frame at the start of buf */
    unsigned char buf[READ_SIZE + MAX_FRAME + 4];
};

static struct port ports[2];
static struct { uint64_t mac; int port; } table[TABLE];

/* In front of every packet from a tun: the load generator's guest, its tun, IPv4. */
static const unsigned char header[HEADER] = {2, 'v', 'b', 0, 0, 0x0A, 2, 'v', 'b', 0, 0, 0x0B, 0x08, 0x00};

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t mac_at(const unsigned char *p)
{
    uint64_t mac = 0;
    memcpy(&mac, p, 6);
    return mac;
}

static unsigned slot(uint64_t mac)
{
    return (mac * 0x9E3779B97F4A7C15u) >> 54;
}

/* Learn where the frame came from; 1 when it belongs to the other port, which an unknown address does too. */
static int forwards(int from, const unsigned char *frame)
{
    uint64_t source = mac_at(frame + 6), destination = mac_at(frame);
    table[slot(source)].mac = source;
    table[slot(source)].port = from;
    return table[slot(destination)].mac != destination || table[slot(destination)].port != from;
}

static void write_all(int fd, const unsigned char *p, size_t left)
{
    while (left) {
        ssize_t n = send(fd, p, left, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            die("write to a stream");
        if (n > 0) {
            p += n;
            left -= n;
        }
    }
}

/* One recv; its whole frames go out in one write to a stream, or one each to a device. 0 at the end of the stream. */
static int from_stream(int from)
{
    struct port *in = &ports[from], *out = &ports[!from];
    ssize_t n = recv(in->fd, in->buf + in->have, READ_SIZE, MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    size_t end = in->have + n, at = 0, start = 0;
    while (end - at >= 4) {
        uint32_t length;
        memcpy(&length, in->buf + at, 4);
        length = ntohl(length);
        if (length < HEADER || length > MAX_FRAME)
            return 0;
        if (end - at < 4 + (size_t)length)
            break;
        const unsigned char *frame = in->buf + at + 4;
        if (!out->cut && !forwards(from, frame)) {
            if (!out->is_device)
                write_all(out->fd, in->buf + start, at - start);
            start = at + 4 + length;
        } else if (out->is_device && write(out->fd, frame + out->cut, length - out->cut) < 0 && errno != EIO) {
            die("write to the device");
        }
        at += 4 + length;
    }
    if (!out->is_device)
        write_all(out->fd, in->buf + start, at - start);
    memmove(in->buf, in->buf + at, end - at);
    in->have = end - at;
    return 1;
}

/* Reads frames until there is none, or the batch is full; one vectored write. */
static int from_device(int from)
{
    static unsigned char frames[BATCH][4 + 2048];
    const size_t cut = ports[from].cut, body = 4 + cut;
    struct port *out = &ports[!from];
    struct iovec iov[BATCH];
    size_t total = 0;
    int count = 0;
    while (count < BATCH) {
        ssize_t n = read(ports[from].fd, frames[count] + body, sizeof frames[0] - body);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            die("read from the device");
        n += cut;
        if (cut)
            memcpy(frames[count] + 4, header, HEADER);
        else if (n < HEADER || !forwards(from, frames[count] + 4))
            continue;
        uint32_t length = htonl(n);
        memcpy(frames[count], &length, 4);
        iov[count] = (struct iovec){frames[count], 4 + n};
        count++;
        total += 4 + n;
    }
    if (!count)
        return 1;
    if (out->is_device) {
        for (int i = 0; i < count; i++)
            if (write(out->fd, frames[i] + 4 + out->cut, iov[i].iov_len - 4 - out->cut) < 0)
                die("write to the device");
        return 1;
    }
    ssize_t done = writev(out->fd, iov, count);
    if (done < 0)
        die("write to a stream");
    for (int i = 0; i < count && (size_t)done < total; i++) { /* a partial write: send the rest piece by piece */
        if ((size_t)done >= iov[i].iov_len) {
            done -= iov[i].iov_len;
            total -= iov[i].iov_len;
            continue;
        }
        write_all(out->fd, (unsigned char *)iov[i].iov_base + done, iov[i].iov_len - done);
        total -= iov[i].iov_len;
        done = 0;
    }
    return 1;
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
        die(path);
    return fd;
}

static int open_device(const char *name, short kind)
{
    struct ifreq request = {.ifr_flags = kind | IFF_NO_PI};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request))
        die(name);
    return fd;
}

int main(int argc, char **argv)
{
    int listeners[2] = {-1, -1};
    if (argc != 3) {
        fprintf(stderr, "usage: floor PORT PORT    PORT = stream:PATH | tap:IFNAME | tun:IFNAME\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        const char *text = argv[i + 1];
        if (!strncmp(text, "stream:", 7)) {
            listeners[i] = listen_on(text + 7);
        } else if (!strncmp(text, "tap:", 4) || !strncmp(text, "tun:", 4)) {
            int is_tun = text[1] == 'u';
            ports[i].fd = open_device(text + 4, is_tun ? IFF_TUN : IFF_TAP);
            ports[i].is_device = 1;
            ports[i].cut = is_tun ? HEADER : 0;
        } else {
            fprintf(stderr, "floor: no such kind of port: %s\n", text);
            return 2;
        }
    }
    puts("ready");
    fflush(stdout);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        if (listeners[i] >= 0) {
            ports[i].fd = accept4(listeners[i], NULL, NULL, SOCK_CLOEXEC);
            close(listeners[i]);
        }
        struct epoll_event event = {EPOLLIN, {.u32 = i}};
        if (poller < 0 || ports[i].fd < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, ports[i].fd, &event))
            die(argv[i + 1]);
    }
    for (;;) {
        struct epoll_event events[2];
        int count = epoll_wait(poller, events, 2, -1);
        for (int k = 0; k < count; k++) {
            int i = events[k].data.u32;
            if (!(ports[i].is_device ? from_device(i) : from_stream(i)))
                return 0;
        }
    }
}
