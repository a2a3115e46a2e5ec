/*
 * Load generator and sink of the bench, one process and one loop: it sends frames into one side of a forwarder and counts
 * them at the other, with a bounded number on their way.
 *
 *     load SOURCE SINK     SIDE = stream:PATH      connects, as QEMU's -netdev stream does
 *                                 vde:DIR:LOCAL    plugs into the vde_switch of DIR; LOCAL is its own socket's path
 *                                 tap:IFNAME       sends by AF_PACKET into the device, counts by the device's counter
 *                                 tun:IFNAME       the same without Ethernet headers; the other side is its guest
 *
 * A frame each way teaches a switch both addresses, and a tun's adapter its guest, who is first to send; then it prints
 * "ready". With a tun all frames are IPv4 and UDP. Then, for each line on stdin
 *
 *     SIZE BURST FRAMES WINDOW [tcp]
 *
 * it sends FRAMES frames of SIZE bytes, BURST to a system call, at most WINDOW on their way, and answers
 *
 *     SENT ARRIVED FOREIGN NANOSECONDS
 *
 * NANOSECONDS is from the first send to the last arrival, FOREIGN counts frames at the sink that are not the bench's.
 * With `tcp` frames to a tap are segments of one TCP stream in order, which may arrive merged (IFF_VNET_HDR): each counts.
 * Frames on their way are given up when none arrives for 0.3 s, and that time is not counted, so that loss hangs no run and
 * a little of it ends none; four times in a row ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "packet.h"

enum { MAX_SIZE = 2000, MAX_BURST = 64, SLOT = 2048, MAX_STRIKES = 4 };
enum { EXPERIMENTAL = 0x88B5 }; /* IEEE 802, local experimental: no host has a handler for it */
enum { IPV4 = 0x0800 };
enum { VDE_MAGIC = 0xFEEDFACE, VDE_VERSION = 3 };
static const int64_t GIVE_UP_NS = 300000000;

enum kind { STREAM, DATAGRAM, DEVICE };

struct side {
    enum kind kind;
    int fd;
    unsigned char mac[6];
    const char *unlink_path;
    char ifname[IFNAMSIZ];
    size_t cut;                  /* bytes of a frame this side does not have: a tun's Ethernet header */
    uint64_t counter;            /* device: its counter when last read */
    size_t out_at, out_end;      /* stream: what is left of a burst that was written in part */
    size_t have;                 /* stream: bytes of an unfinished frame at the start of in */
    unsigned char out[MAX_BURST * SLOT];
    unsigned char in[1 << 20];
};

static struct side sides[2];
static uint64_t foreign;
static unsigned ethertype = EXPERIMENTAL;
static size_t segment;    /* bytes of data in a frame of a TCP stream; 0: the frames are none */
static uint32_t sequence; /* of the next one */

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void set_path(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address->sun_path, path);
}

static void open_stream(struct side *side, const char *path)
{
    struct sockaddr_un address;
    set_path(&address, path);
    side->kind = STREAM;
    side->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (side->fd < 0 || connect(side->fd, (void *)&address, sizeof address))
        die(path);
}

/*
 * VDE's control socket, DIR/ctl: the client names its own bound datagram socket, the switch answers with the address of
 * the one it made for this port. Frames are datagrams; the port lives as long as the control connection.
 */
static void open_vde(struct side *side, char *argument)
{
    struct {
        uint32_t magic, version, type; /* type 0: any free port */
        struct sockaddr_un socket;
        char description[8];
    } request = {VDE_MAGIC, VDE_VERSION, 0, {0}, "bench"};
    struct sockaddr_un control, answer = {0};
    char path[256], *local = strchr(argument, ':');
    if (!local) {
        fprintf(stderr, "load: vde:DIR:LOCAL, not vde:%s\n", argument);
        exit(2);
    }
    *local++ = 0;
    snprintf(path, sizeof path, "%s/ctl", argument);
    set_path(&control, path);
    set_path(&request.socket, local);
    side->kind = DATAGRAM;
    side->fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (side->fd < 0 || bind(side->fd, (void *)&request.socket, sizeof request.socket))
        die(local);
    side->unlink_path = local;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* stays open to the end of the process */
    if (fd < 0 || connect(fd, (void *)&control, sizeof control))
        die(path);
    if (send(fd, &request, sizeof request, MSG_NOSIGNAL) != sizeof request)
        die("request for a VDE port");
    if (recv(fd, &answer, sizeof answer, 0) <= 0 || connect(side->fd, (void *)&answer, sizeof answer))
        die("answer of the VDE switch");
}

static void open_device(struct side *side, const char *name)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
    side->kind = DEVICE;
    snprintf(side->ifname, sizeof side->ifname, "%s", name);
    side->fd = socket(AF_PACKET, SOCK_RAW, 0); /* protocol 0: it receives nothing */
    if (side->fd < 0 || !address.sll_ifindex || bind(side->fd, (void *)&address, sizeof address))
        die(name);
}

static void open_side(struct side *side, int station, char *text)
{
    memcpy(side->mac, (unsigned char[]){0x02, 'v', 'b', 0, 0, 0x0A + station}, 6);
    if (!strncmp(text, "stream:", 7))
        open_stream(side, text + 7);
    else if (!strncmp(text, "vde:", 4))
        open_vde(side, text + 4);
    else if (!strncmp(text, "tap:", 4))
        open_device(side, text + 4);
    else if (!strncmp(text, "tun:", 4)) {
        open_device(side, text + 4);
        side->cut = HEADER;
        ethertype = IPV4;
    } else {
        fprintf(stderr, "load: no such kind of side: %s\n", text);
        exit(2);
    }
}

/* Packets, or segments, the device took from whoever writes into it, of this thread's network namespace. */
static uint64_t device_packets(const struct side *side)
{
    static FILE *file;
    static char text[65536];
    char name[IFNAMSIZ + 2];
    unsigned long long bytes, packets;
    if (!file && !(file = fopen("/proc/thread-self/net/dev", "r")))
        die("/proc/thread-self/net/dev");
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    snprintf(name, sizeof name, "%s:", side->ifname);
    char *line = strstr(text, name);
    if (!line || sscanf(line + strlen(name), "%llu %llu", &bytes, &packets) != 2) {
        fprintf(stderr, "load: no counters of %s\n", side->ifname);
        exit(1);
    }
    /* Merged segments have one header. The first term keeps the rest from going below 0 for shorter frames before. */
    return segment ? ((1ull << 40) + bytes - packets * (HEADER + IP_HEADER + TCP_HEADER)) / segment : packets;
}

/* Fill the side's buffer with a burst of frames: back to back with lengths on a stream, else one to a slot. */
static void prepare(struct side *side, const struct side *to, size_t size, size_t burst)
{
    size_t step = side->kind == STREAM ? size + 4 : SLOT;
    unsigned char frame[MAX_SIZE] = {0};
    memcpy(frame, to->mac, 6);
    memcpy(frame + 6, side->mac, 6);
    put16(frame + 12, ethertype);
    if (ethertype == IPV4)
        (segment ? put_tcp : put_udp)(frame + HEADER, size - HEADER, side->cut ? HOST : GUEST, side->cut ? GUEST : NOBODY);
    for (size_t i = 0; i < burst; i++) {
        unsigned char *at = side->out + i * step;
        if (side->kind == STREAM) {
            uint32_t length = htonl(size);
            memcpy(at, &length, 4);
            at += 4;
        }
        memcpy(at, frame + side->cut, size - side->cut);
    }
    side->out_at = side->out_end = 0;
}

/* Send the burst, or what is left of one; how many frames are through, 0 when it would block. */
static size_t send_burst(struct side *side, size_t size, size_t burst)
{
    if (side->kind == STREAM) {
        if (side->out_at == side->out_end) {
            side->out_at = 0;
            side->out_end = burst * (size + 4);
            for (size_t i = 0; segment && i < burst; i++, sequence += segment)
                put_sequence(side->out + i * (size + 4) + 4 + HEADER, size - HEADER, sequence);
        }
        ssize_t n = send(side->fd, side->out + side->out_at, side->out_end - side->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            die("send to the stream");
        if (n > 0)
            side->out_at += n;
        return side->out_at == side->out_end ? burst : 0;
    }
    if (side->out_at == burst) /* the last burst is through: the next one */
        side->out_at = 0;
    struct mmsghdr messages[MAX_BURST] = {0};
    struct iovec iov[MAX_BURST];
    size_t count = burst - side->out_at;
    for (size_t i = 0; i < count; i++) {
        iov[i] = (struct iovec){side->out + (side->out_at + i) * SLOT, size - side->cut};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = sendmmsg(side->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
        die("send of frames");
    if (n > 0)
        side->out_at += n;
    return side->out_at == burst ? burst : 0;
}

static int is_ours(const unsigned char *frame, size_t length, const struct side *side, size_t size)
{
    return length == size && !memcmp(frame, side->mac, 6) && frame[12] == ethertype >> 8 &&
           frame[13] == (ethertype & 0xFF);
}

static size_t receive_stream(struct side *side, size_t size)
{
    ssize_t n = recv(side->fd, side->in + side->have, sizeof side->in - side->have, MSG_DONTWAIT);
    if (n == 0) {
        fprintf(stderr, "load: the forwarder closed the stream\n");
        exit(1);
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        die("receive from the stream");
    if (n < 0)
        return 0;
    size_t end = side->have + n, at = 0, count = 0;
    while (end - at >= 4) {
        uint32_t length;
        memcpy(&length, side->in + at, 4);
        length = ntohl(length);
        if (length > 69632) {
            fprintf(stderr, "load: a length of %u: the stream lost its frames' boundaries\n", length);
            exit(1);
        }
        if (end - at < 4 + (size_t)length)
            break;
        if (is_ours(side->in + at + 4, length, side, size))
            count++;
        else
            foreign++;
        at += 4 + length;
    }
    memmove(side->in, side->in + at, end - at);
    side->have = end - at;
    return count;
}

static size_t receive_datagrams(struct side *side, size_t size)
{
    struct mmsghdr messages[MAX_BURST] = {0};
    struct iovec iov[MAX_BURST];
    size_t count = 0;
    for (size_t i = 0; i < MAX_BURST; i++) {
        iov[i] = (struct iovec){side->in + i * SLOT, SLOT};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(side->fd, messages, MAX_BURST, MSG_DONTWAIT, NULL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        die("receive of frames");
    for (int i = 0; i < n; i++) {
        if (is_ours(side->in + i * SLOT, messages[i].msg_len, side, size))
            count++;
        else
            foreign++;
    }
    return count;
}

/* Frames of the bench that arrived since the last call. */
static size_t receive(struct side *side, size_t size)
{
    if (side->kind == STREAM)
        return receive_stream(side, size);
    if (side->kind == DATAGRAM)
        return receive_datagrams(side, size);
    uint64_t before = side->counter;
    side->counter = device_packets(side);
    return side->counter - before;
}

/* Until the sink has something, or the blocked source room; a device's counter cannot be waited for. */
static void wait_for(struct side *source, int blocked, struct side *sink, int most_ms)
{
    struct pollfd fds[2] = {{sink->kind == DEVICE ? -1 : sink->fd, POLLIN, 0}, {blocked ? source->fd : -1, POLLOUT, 0}};
    if (sink->kind == DEVICE)
        nanosleep(&(struct timespec){0, 20000}, NULL);
    else
        poll(fds, 2, most_ms);
}

static void drain(struct side *side)
{
    while (receive(side, 0))
        ;
    if (side->kind == DEVICE)
        return;
    struct pollfd fd = {side->fd, POLLIN, 0};
    while (poll(&fd, 1, 20) > 0)
        receive(side, 0);
}

/* Send one frame until it arrives at the other side: the forwarder has both peers and knows the address. */
static void teach(struct side *from, struct side *to)
{
    int64_t end = now_ns() + 5000000000LL;
    prepare(from, to, 64, 1);
    if (to->kind == DEVICE)
        to->counter = device_packets(to);
    while (now_ns() < end) {
        send_burst(from, 64, 1);
        int64_t again = now_ns() + 100000000;
        while (now_ns() < again) {
            if (receive(to, 64))
                return;
            wait_for(from, 0, to, 10);
        }
    }
    fprintf(stderr, "load: not one frame came through in 5 s\n");
    exit(1);
}

static void run(size_t size, size_t burst, uint64_t frames, uint64_t window)
{
    struct side *source = &sides[0], *sink = &sides[1];
    uint64_t sent = 0, arrived = 0, given_up = 0;
    int strikes = 0, blocked = 0; /* strikes: frames given up since the last one arrived */
    int64_t lost_ns = 0, stalled_ns = 0; /* stalls that an arrival ended, and the present one */
    if (source->cut) /* the adapter forgets a guest that has been silent for long */
        teach(sink, source);
    drain(source);
    drain(sink);
    foreign = 0;
    prepare(source, sink, size, burst);
    int64_t start = now_ns(), last = start, waiting_since = start;
    while (arrived < frames && strikes < MAX_STRIKES) {
        blocked = 0;
        while (sent < frames && sent + burst <= arrived + given_up + window && !blocked) {
            size_t n = send_burst(source, size, burst);
            sent += n;
            blocked = !n;
            if (sink->kind == DATAGRAM) /* its queue is short (net.unix.max_dgram_qlen), and a full one loses */
                arrived += receive(sink, size);
        }
        int64_t now = 0;
        do {
            wait_for(source, blocked, sink, 50);
            size_t n = receive(sink, size);
            now = now_ns();
            if (n) {
                arrived += n;
                last = waiting_since = now;
                strikes = 0;
                lost_ns += stalled_ns;
                stalled_ns = 0;
            }
            if (arrived >= frames || blocked)
                break;
        } while ((sent == frames || sent > arrived + given_up + window / 2) && now - waiting_since < GIVE_UP_NS);
        if (now - waiting_since >= GIVE_UP_NS) {
            given_up = sent > arrived ? sent - arrived : 0;
            stalled_ns += now - waiting_since;
            waiting_since = now;
            strikes = sent == frames ? MAX_STRIKES : strikes + 1;
        }
    }
    printf("%llu %llu %llu %lld\n", (unsigned long long)sent, (unsigned long long)arrived, (unsigned long long)foreign,
           (long long)(last - start - lost_ns));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[256];
    if (argc != 3) {
        fprintf(stderr, "usage: load SOURCE SINK    SIDE = stream:PATH | vde:DIR:LOCAL | tap:IFNAME | tun:IFNAME\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1);
    int tun_first = !strncmp(argv[1], "tun:", 4); /* a tun is always the second station, its guest the first */
    for (int i = 0; i < 2; i++)
        open_side(&sides[i], i ^ tun_first, argv[i + 1]);
    int first = !sides[1].cut, tuns = ethertype == IPV4;
    teach(&sides[first], &sides[!first]);
    teach(&sides[!first], &sides[first]);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long size, burst, frames, window;
        char mode[8] = "";
        int words = sscanf(line, "%llu %llu %llu %llu %7s", &size, &burst, &frames, &window, mode);
        int tcp = !strcmp(mode, "tcp");
        size_t headers = HEADER + (tcp ? IP_HEADER + TCP_HEADER : tuns ? IP_HEADER + UDP_HEADER : 0);
        if (words < 4 || (tcp && tuns) || size < headers + tcp || size > MAX_SIZE || burst < 1 || burst > MAX_BURST ||
            frames % burst || window < burst) {
            fprintf(stderr, "load: SIZE BURST FRAMES WINDOW do not fit: %s", line);
            return 2;
        }
        ethertype = tcp || tuns ? IPV4 : EXPERIMENTAL;
        segment = tcp ? size - headers : 0;
        run(size, burst, frames, window);
    }
    for (int i = 0; i < 2; i++)
        if (sides[i].unlink_path)
            unlink(sides[i].unlink_path);
    return 0;
}
