/*
 * Load generator and sink for vhost-user back-ends, one process and one loop: two front-ends, each a guest's memory, a
 * driver and a network device of one queue pair. The source has frames lie in its memory ready to be taken, the sink
 * posts buffers and counts what the back-end puts into them.
 *
 *     vhost_load SOURCE SINK     SIDE = split:PATH | packed:PATH     connects, as QEMU does; the rings' layout
 *
 * A frame each way teaches a switch both addresses; then it prints "ready". Then, for each line on stdin
 *
 *     SIZE BURST FRAMES WINDOW MODE       MODE = poll | event
 *
 * it sends FRAMES frames of SIZE bytes, making BURST available at a time, with at most WINDOW on their way, and answers
 *
 *     SENT ARRIVED FOREIGN NANOSECONDS
 *
 * as native/load.c does. FOREIGN counts frames that are not the bench's or are out of order. NANOSECONDS is what ARRIVED
 * frames take at the pace of the median few thousand: a back-end that spins cannot be told by its CPU time from one that
 * waits for a generator that another process keeps from its CPU, but that is a matter of few of these slices.
 *
 * With `poll` it never sleeps and wants no calls, so that it is the back-end that limits; with `event` it sleeps on the
 * sink's call descriptor. It kicks when the back-end asks to be, always. Frames that do not arrive for a second are given up.
 */
#define _GNU_SOURCE
#include <linux/virtio_net.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vring.h"

enum { MIN_FRAME = 60, MAX_FRAME = 1514 };
enum { HEADER = 12 };                   /* struct virtio_net_hdr_v1 (VIRTIO 1.2, 5.1.6) */
enum { MEMORY = 2 * RING_MEMORY };      /* of a guest */
enum { SEQUENCE = HEADER + 16 };        /* where in a buffer a frame's number is */
enum { EXPERIMENTAL = 0x88B5 };         /* IEEE 802, local experimental */
enum { SLICE = 4096, MAX_SLICES = 4096 }; /* frames of a slice, or more when there would be too many slices */
enum { MAX_STRIKES = 4 };
static const uint64_t GUEST_BASE = 0x40000000; /* unlike our own addresses, as in a guest */
static const int64_t GIVE_UP_NS = 1000000000;

_Static_assert(sizeof(struct virtio_net_hdr_v1) == HEADER, "the header of VERSION_1");
_Static_assert(MEMORY % 4096 == 0, "whole pages");

/* One front-end: rings as the protocol numbers them, 0 receives, 1 transmits. */
struct side {
    int fd;
    unsigned char mac[6];
    unsigned char *memory;
    struct ring rings[2];
};

static struct side sides[2];
static uint64_t expected, foreign; /* the sequence number due at the sink */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- The control protocol (QEMU, docs/interop/vhost-user.rst): every request waits for its acknowledgement ---- */

enum {
    GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR, SET_VRING_BASE,
    SET_VRING_KICK = 12, SET_VRING_CALL, GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 18,
};
enum { VERSION = 1, REPLY = 4, NEED_REPLY = 8 };
enum { F_PROTOCOL_FEATURES = 30, PF_REPLY_ACK = 3 };

struct message {
    uint32_t request, flags, size;
    union {
        uint64_t number;
        struct { uint32_t index, number; } state;
        struct { uint32_t index, flags; uint64_t descriptors, used, avail, log; } address;
        struct { uint32_t count, padding; uint64_t guest_address, size, user_address, offset; } memory;
    };
} __attribute__((packed));
enum { MESSAGE_HEADER = 12 };

static void transmit(const struct side *side, struct message *message, int fd)
{
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof fd)]; } control = {0};
    struct iovec iov = {message, MESSAGE_HEADER + message->size};
    struct msghdr envelope = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        envelope.msg_control = &control;
        envelope.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    message->flags |= VERSION;
    if (sendmsg(side->fd, &envelope, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
        die("send of a vhost-user request");
}

static uint64_t answer(const struct side *side, uint32_t request)
{
    struct message message;
    ssize_t n = recv(side->fd, &message, MESSAGE_HEADER + sizeof message.number, MSG_WAITALL);
    if (n != MESSAGE_HEADER + (ssize_t)sizeof message.number || message.request != request || !(message.flags & REPLY)) {
        fprintf(stderr, "vhost_load: no answer to vhost-user request %u: the back-end closed or says something else\n", request);
        exit(1);
    }
    return message.number;
}

static uint64_t ask(const struct side *side, uint32_t request)
{
    struct message message = {.request = request};
    transmit(side, &message, -1);
    return answer(side, request);
}

static void tell(const struct side *side, struct message message, int fd)
{
    message.flags = NEED_REPLY;
    transmit(side, &message, fd);
    if (answer(side, message.request)) {
        fprintf(stderr, "vhost_load: the back-end refused vhost-user request %u\n", message.request);
        exit(1);
    }
}

static void tell_number(const struct side *side, uint32_t request, uint64_t number, int fd)
{
    tell(side, (struct message){.request = request, .size = sizeof number, .number = number}, fd);
}

static void tell_ring(const struct side *side, uint32_t request, uint32_t index, uint32_t number)
{
    tell(side, (struct message){.request = request, .size = 8, .state = {index, number}}, -1);
}

/* What QEMU sends before a guest's driver is ready, shortened. */
static void negotiate(struct side *side, int packed)
{
    uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_RING_F_EVENT_IDX |
                      1ull << F_PROTOCOL_FEATURES | (uint64_t)packed << VIRTIO_F_RING_PACKED;
    uint64_t lacking = wanted & ~ask(side, GET_FEATURES);
    if (lacking || !(ask(side, GET_PROTOCOL_FEATURES) >> PF_REPLY_ACK & 1)) {
        fprintf(stderr, "vhost_load: the back-end lacks features %#llx, or REPLY_ACK\n", (unsigned long long)lacking);
        exit(1);
    }
    struct message acknowledged = {.request = SET_PROTOCOL_FEATURES, .size = 8, .number = 1 << PF_REPLY_ACK};
    transmit(side, &acknowledged, -1);
    struct message owner = {.request = SET_OWNER};
    transmit(side, &owner, -1);
    tell_number(side, SET_FEATURES, wanted, -1);
}

static void start_ring(const struct side *side, unsigned index)
{
    const struct ring *ring = &side->rings[index];
    uint64_t start = (uintptr_t)ring->start;
    struct message address = {.request = SET_VRING_ADDR, .size = sizeof address.address, .address = {.index = index}};
    address.address.descriptors = start;
    address.address.avail = (uintptr_t)(ring->packed ? (void *)ring->driver : (void *)ring->avail);
    address.address.used = (uintptr_t)(ring->packed ? (void *)ring->device : (void *)ring->used);
    tell_ring(side, SET_VRING_NUM, index, SIZE);
    tell_ring(side, SET_VRING_BASE, index, ring->packed ? 0x80008000 : 0); /* both wrap counters begin as 1 */
    tell(side, address, -1);
    tell_number(side, SET_VRING_KICK, index, ring->kick);
    tell_number(side, SET_VRING_CALL, index, ring->call);
    tell_ring(side, SET_VRING_ENABLE, index, 1);
}

/* ---- Front-ends ---- */

/* All free receive buffers to the device. */
static void refill(struct side *side)
{
    struct ring *ring = &side->rings[0];
    while (ring->free)
        post(ring, HEADER + MAX_FRAME);
    publish(ring);
}

static void connect_to(struct side *side, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address.sun_path, path);
    side->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (side->fd < 0 || connect(side->fd, (void *)&address, sizeof address))
        die(path);
}

static void open_side(struct side *side, int station, const char *text)
{
    int packed = !strncmp(text, "packed:", 7);
    if (!packed && strncmp(text, "split:", 6)) {
        fprintf(stderr, "vhost_load: no such kind of side: %s\n", text);
        exit(2);
    }
    memcpy(side->mac, (unsigned char[]){0x02, 'v', 'b', 0, 0, 0x0A + station}, 6);
    connect_to(side, strchr(text, ':') + 1);
    int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, MEMORY))
        die("guest memory");
    side->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (side->memory == MAP_FAILED)
        die("guest memory");
    negotiate(side, packed);
    tell(side, (struct message){.request = SET_MEM_TABLE, .size = sizeof(struct message) - MESSAGE_HEADER,
                                .memory = {1, 0, GUEST_BASE, MEMORY, (uintptr_t)side->memory, 0}}, fd);
    close(fd);
    for (int i = 0; i < 2; i++)
        lay_out(&side->rings[i], side->memory + i * RING_MEMORY, GUEST_BASE + i * RING_MEMORY, packed, i == 0);
    for (int i = 0; i < 2; i++) {
        want_calls(&side->rings[i], 0);
        start_ring(side, i);
    }
    refill(side);
}

/* Every transmit buffer becomes a frame for the other side; only the sequence number is written later. */
static void prepare(struct side *from, const struct side *to)
{
    for (unsigned i = 0; i < SIZE; i++) {
        unsigned char *buffer = from->rings[1].buffers + i * STRIDE;
        memset(buffer, 0, STRIDE);
        memcpy(buffer + HEADER, to->mac, 6);
        memcpy(buffer + HEADER + 6, from->mac, 6);
        buffer[HEADER + 12] = EXPERIMENTAL >> 8;
        buffer[HEADER + 13] = EXPERIMENTAL & 0xFF;
    }
}

static void reclaim(struct ring *ring)
{
    uint32_t length;
    while (has_used(ring))
        take(ring, &length);
}

/* Make up to `burst` frames available, or none when so many slots are not free. */
static size_t send_burst(struct side *side, size_t size, size_t burst, uint64_t sequence)
{
    struct ring *ring = &side->rings[1];
    reclaim(ring);
    if (ring->free < burst)
        return 0;
    for (size_t i = 0; i < burst; i++, sequence++) {
        memcpy(ring->buffers + ring->slots[ring->free - 1] * STRIDE + SEQUENCE, &sequence, sizeof sequence);
        post(ring, HEADER + size);
    }
    publish(ring);
    return burst;
}

static int is_ours(const unsigned char *buffer, uint32_t length, const struct side *side, size_t size, uint64_t *sequence)
{
    const struct virtio_net_hdr_v1 *header = (const void *)buffer;
    memcpy(sequence, buffer + SEQUENCE, sizeof *sequence);
    return length == HEADER + size && header->num_buffers == 1 && !memcmp(buffer + HEADER, side->mac, 6) &&
           buffer[HEADER + 12] == EXPERIMENTAL >> 8 && buffer[HEADER + 13] == (EXPERIMENTAL & 0xFF);
}

/* Frames of the bench that arrived since the last call, at most a burst of 64; their buffers go back at once. */
static size_t receive(struct side *side, size_t size)
{
    struct ring *ring = &side->rings[0];
    size_t count = 0;
    for (int i = 0; i < 64 && has_used(ring); i++) {
        uint32_t length;
        uint64_t sequence;
        const unsigned char *buffer = take(ring, &length);
        if (is_ours(buffer, length, side, size, &sequence) && sequence >= expected) {
            expected = sequence + 1;
            count++;
        } else {
            foreign++;
        }
        post(ring, HEADER + MAX_FRAME);
    }
    publish(ring);
    return count;
}

/* Until the device has used a buffer of this ring. */
static void sleep_on(struct ring *ring, int most_ms)
{
    eventfd_t ignored;
    want_calls(ring, 1);
    if (!has_used(ring))
        poll(&(struct pollfd){ring->call, POLLIN, 0}, 1, most_ms);
    eventfd_read(ring->call, &ignored);
    want_calls(ring, 0);
}

/* Send one frame until it arrives at the other side: the back-end runs both and a switch knows the address. */
static void teach(struct side *from, struct side *to)
{
    int64_t end = now_ns() + 5000000000LL;
    prepare(from, to);
    while (now_ns() < end) {
        expected = 0;
        send_burst(from, 64, 1, 0);
        sleep_on(&to->rings[0], 100);
        if (receive(to, 64))
            return;
    }
    fprintf(stderr, "vhost_load: not one frame came through in 5 s\n");
    exit(1);
}

static void drain(struct side *side)
{
    do {
        while (receive(side, 0))
            ;
        sleep_on(&side->rings[0], 20);
    } while (has_used(&side->rings[0]));
}

static int by_value(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void run(size_t size, size_t burst, uint64_t frames, uint64_t window, int polling)
{
    static double paces[MAX_SLICES + 1]; /* ns per frame */
    struct side *source = &sides[0], *sink = &sides[1];
    uint64_t sent = 0, arrived = 0, given_up = 0, cut = 0, slice = frames / MAX_SLICES > SLICE ? frames / MAX_SLICES : SLICE;
    int strikes = 0, slices = 0; /* strikes: frames given up since the last one arrived */
    drain(source);
    drain(sink);
    foreign = expected = 0;
    int64_t start = now_ns(), slice_start = start, last = start, waiting_since = start;
    while (arrived < frames && strikes < MAX_STRIKES) {
        size_t out = 0;
        if (sent < frames && sent + burst <= arrived + given_up + window)
            sent += out = send_burst(source, size, burst, sent);
        size_t in = receive(sink, size);
        if (in) {
            arrived += in;
            last = waiting_since = now_ns();
            strikes = 0;
            if (arrived - cut >= slice) {
                paces[slices++] = (double)(last - slice_start) / (arrived - cut);
                cut = arrived;
                slice_start = last;
            }
        } else if (!out) {
            if (!polling)
                sleep_on(&sink->rings[0], 50);
            int64_t now = now_ns();
            if (now - waiting_since >= GIVE_UP_NS && !has_used(&sink->rings[0])) {
                given_up = sent - arrived;
                waiting_since = now;
                strikes = sent == frames ? MAX_STRIKES : strikes + 1;
            }
        }
    }
    qsort(paces, slices, sizeof *paces, by_value);
    double pace = slices ? paces[slices / 2] : arrived ? (double)(last - start) / arrived : 0;
    printf("%llu %llu %llu %.0f\n", (unsigned long long)sent, (unsigned long long)arrived, (unsigned long long)foreign,
           pace * arrived);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[256];
    if (argc != 3) {
        fprintf(stderr, "usage: vhost_load SOURCE SINK    SIDE = split:PATH | packed:PATH\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < 2; i++)
        open_side(&sides[i], i, argv[i + 1]);
    teach(&sides[1], &sides[0]);
    teach(&sides[0], &sides[1]);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long size, burst, frames, window;
        char mode[8];
        if (sscanf(line, "%llu %llu %llu %llu %7s", &size, &burst, &frames, &window, mode) != 5 || size < MIN_FRAME ||
            size > MAX_FRAME || burst < 1 || frames % burst || window < burst || window > SIZE) {
            fprintf(stderr, "vhost_load: SIZE BURST FRAMES WINDOW MODE do not fit: %s", line);
            return 2;
        }
        run(size, burst, frames, window, !strcmp(mode, "poll"));
    }
    return 0;
}
