/* IPv4 packets of the bench (RFC 791) that nobody answers, with UDP (RFC 768) or a segment of one long TCP stream (RFC 9293). */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { HEADER = 14, IP_HEADER = 20, UDP_HEADER = 8, TCP_HEADER = 32, DISCARD = 9 /* RFC 863's port */ };

/*
 * Addresses of a tun's link (RFC 5737). What the guest sends goes to a loopback address: a host drops that from outside
 * before it looks a route up (RFC 1122, 3.2.1.3 g), and answers nothing.
 */
static const unsigned char HOST[4] = {192, 0, 2, 1}, GUEST[4] = {192, 0, 2, 2}, NOBODY[4] = {127, 0, 0, 1};

static void put16(unsigned char *at, unsigned value)
{
    at[0] = value >> 8;
    at[1] = value & 0xFF;
}

/* The sum of RFC 1071, of an even number of bytes. */
static unsigned sum16(const unsigned char *bytes, size_t length, unsigned sum)
{
    for (size_t i = 0; i < length; i += 2)
        sum += bytes[i] << 8 | bytes[i + 1];
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (sum & 0xFFFF) + (sum >> 16);
}

static void put_ip(unsigned char *packet, size_t size, unsigned protocol, const unsigned char *source,
                   const unsigned char *destination)
{
    packet[0] = 0x45;
    put16(packet + 2, size);
    packet[6] = 0x40; /* don't fragment */
    packet[8] = 64;
    packet[9] = protocol;
    memcpy(packet + 12, source, 4);
    memcpy(packet + 16, destination, 4);
    put16(packet + 10, ~sum16(packet, IP_HEADER, 0) & 0xFFFF);
    put16(packet + IP_HEADER, DISCARD);
    put16(packet + IP_HEADER + 2, DISCARD);
}

/* A packet of `size` bytes that is zero so far; UDP's checksum is left out, as IPv4 allows. */
static void put_udp(unsigned char *packet, size_t size, const unsigned char *source, const unsigned char *destination)
{
    put_ip(packet, size, IPPROTO_UDP, source, destination);
    put16(packet + IP_HEADER + 4, size - IP_HEADER);
}

/* As Linux sends data in bulk: nothing but ACK, and timestamps (RFC 7323). The sequence number is put_sequence()'s. */
static void put_tcp(unsigned char *packet, size_t size, const unsigned char *source, const unsigned char *destination)
{
    unsigned char *tcp = packet + IP_HEADER;
    put_ip(packet, size, IPPROTO_TCP, source, destination);
    tcp[12] = TCP_HEADER / 4 << 4;
    tcp[13] = 0x10; /* ACK */
    put16(tcp + 14, 0xFFFF);
    memcpy(tcp + 20, (unsigned char[]){1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1}, 12);
}

/* The number of a segment's first byte, and the checksum that goes with it; all data are zeroes. */
static void put_sequence(unsigned char *packet, size_t size, uint32_t sequence)
{
    unsigned char *tcp = packet + IP_HEADER;
    put16(tcp + 4, sequence >> 16);
    put16(tcp + 6, sequence & 0xFFFF);
    put16(tcp + 16, 0);
    unsigned pseudo = sum16(packet + 12, 8, IPPROTO_TCP + size - IP_HEADER);
    put16(tcp + 16, ~sum16(tcp, TCP_HEADER, pseudo) & 0xFFFF);
}
