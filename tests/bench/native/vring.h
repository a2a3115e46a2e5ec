/*
 * The driver's side of a virtqueue of the bench, split or packed (VIRTIO 1.2, 2.7 and 2.8), with EVENT_IDX: every buffer is
 * one descriptor, in memory that is laid out here. Not here: who the device is (vhost_load.c).
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { SIZE = 1024, MASK = SIZE - 1 };  /* buffers of a ring; a power of two, so a position's low bits are its slot */
enum { STRIDE = 2112 };                 /* from buffer to buffer: 33 cache lines, odd, so all sets of a cache are used */
enum { RING_ROOM = 65536, RING_MEMORY = RING_ROOM + SIZE * STRIDE };

static void die(const char *what)
{
    fprintf(stderr, "vhost_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The driver's side of one ring. Positions count up for ever; a slot is a buffer and, in a split ring, its descriptor. */
struct ring {
    int packed, writable;
    int kick, call;
    uint32_t posted, published; /* positions: the next buffer to post, and to make available */
    uint32_t seen;              /* the next used one to look at */
    unsigned free;              /* how many of `slots`, a stack, are the driver's */
    uint16_t slots[SIZE];
    unsigned char *buffers;     /* SIZE of STRIDE bytes */
    uint64_t guest_address;     /* of the first */
    unsigned char *start;       /* of the ring's own memory */
    struct vring_desc *descriptors;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t *avail_event;      /* behind `used`: the position at which the device wants a kick */
    struct vring_packed_desc *packed_descriptors;
    struct vring_packed_desc_event *driver, *device;
};

/* A ring and its buffers in RING_MEMORY zero bytes, which the guest has at an address of its own; all are free. */
static void lay_out(struct ring *ring, unsigned char *memory, uint64_t guest_address, int packed, int writable)
{
    *ring = (struct ring){.packed = packed, .writable = writable, .start = memory, .buffers = memory + RING_ROOM,
                          .guest_address = guest_address + RING_ROOM};
    ring->descriptors = (void *)memory;
    ring->packed_descriptors = (void *)memory;
    ring->avail = (void *)(memory + 16 * SIZE);
    ring->used = (void *)(memory + 24 * SIZE);
    ring->avail_event = (void *)&ring->used->ring[SIZE];
    ring->driver = (void *)ring->avail;
    ring->device = (void *)ring->used;
    for (ring->free = 0; ring->free < SIZE; ring->free++)
        ring->slots[ring->free] = MASK - ring->free;
    ring->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ring->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ring->kick < 0 || ring->call < 0)
        die("eventfd");
}

/* The wrap counter of a packed ring at a position. */
static unsigned wrap(uint32_t position)
{
    return !(position / SIZE & 1);
}

/* Of an available descriptor at a position. */
static uint16_t packed_flags(const struct ring *ring, uint32_t position)
{
    return (ring->writable ? VRING_DESC_F_WRITE : 0) | wrap(position) << VRING_PACKED_DESC_F_AVAIL |
           !wrap(position) << VRING_PACKED_DESC_F_USED;
}

/* Give the next free slot to the device, which does not see it before publish(). The caller has looked at `free`. */
static void post(struct ring *ring, uint32_t length)
{
    unsigned slot = ring->slots[--ring->free];
    uint64_t address = ring->guest_address + slot * STRIDE;
    uint32_t at = ring->posted++;
    if (!ring->packed) {
        ring->descriptors[slot] = (struct vring_desc){address, length, ring->writable ? VRING_DESC_F_WRITE : 0, 0};
        ring->avail->ring[at & MASK] = slot;
        return;
    }
    struct vring_packed_desc *descriptor = &ring->packed_descriptors[at & MASK];
    descriptor->addr = address;
    descriptor->len = length;
    descriptor->id = slot;
    if (at != ring->published) /* the first of a batch is what makes it available */
        descriptor->flags = packed_flags(ring, at);
}

static int kick_wanted(const struct ring *ring, uint32_t before)
{
    if (!ring->packed)
        return vring_need_event(__atomic_load_n(ring->avail_event, __ATOMIC_RELAXED), ring->posted, before);
    uint16_t flags = __atomic_load_n(&ring->device->flags, __ATOMIC_RELAXED);
    uint16_t event = __atomic_load_n(&ring->device->off_wrap, __ATOMIC_RELAXED);
    if (flags != VRING_PACKED_EVENT_FLAG_DESC)
        return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
    uint16_t at = ring->posted & MASK, index = event & 0x7FFF;
    if (event >> VRING_PACKED_EVENT_F_WRAP_CTR != wrap(ring->posted))
        index -= SIZE;
    return vring_need_event(index, at, at - (ring->posted - before));
}

/* Make what was posted available, and kick when the device asks for it. */
static void publish(struct ring *ring)
{
    uint32_t before = ring->published;
    if (before == ring->posted)
        return;
    if (ring->packed) {
        uint16_t *flags = &ring->packed_descriptors[before & MASK].flags;
        __atomic_store_n(flags, packed_flags(ring, before), __ATOMIC_RELEASE);
    } else {
        __atomic_store_n(&ring->avail->idx, (uint16_t)ring->posted, __ATOMIC_RELEASE);
    }
    ring->published = ring->posted;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* before looking whether the device sleeps */
    if (kick_wanted(ring, before) && eventfd_write(ring->kick, 1) && errno != EAGAIN)
        die("kick");
}

/* Whether the device has used a buffer that take() did not return yet. */
static int has_used(const struct ring *ring)
{
    if (!ring->packed)
        return __atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE) != (uint16_t)ring->seen;
    uint16_t flags = __atomic_load_n(&ring->packed_descriptors[ring->seen & MASK].flags, __ATOMIC_ACQUIRE);
    unsigned is = wrap(ring->seen);
    return (flags >> VRING_PACKED_DESC_F_AVAIL & 1) == is && (flags >> VRING_PACKED_DESC_F_USED & 1) == is;
}

/* The next used buffer, whose slot is free again; call only after has_used(). */
static unsigned char *take(struct ring *ring, uint32_t *length)
{
    uint32_t at = ring->seen++ & MASK;
    uint32_t slot = ring->packed ? ring->packed_descriptors[at].id : ring->used->ring[at].id;
    *length = ring->packed ? ring->packed_descriptors[at].len : ring->used->ring[at].len;
    if (slot >= SIZE || ring->free == SIZE) {
        fprintf(stderr, "vhost_load: the back-end returned a buffer it did not have\n");
        exit(1);
    }
    ring->slots[ring->free++] = slot;
    return ring->buffers + slot * STRIDE;
}

/* Want a call for the next used buffer, or none at all; with EVENT_IDX a split ring is silent again after one. */
static void want_calls(struct ring *ring, int wanted)
{
    if (ring->packed)
        ring->driver->flags = wanted ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE;
    else
        ring->avail->ring[SIZE] = wanted ? ring->seen : ring->seen - 1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* before looking again for used buffers */
}
