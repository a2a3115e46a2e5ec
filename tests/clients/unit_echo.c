/* Answers pings for the whole network behind a tun unit: cc -o unit_echo unit_echo.c; ./unit_echo PATH
 *
 * Of `vbackend run ... unit:PATH,addr=10.7.0.1,peer=10.7.0.2,header=null`: one message is one IPv4 or IPv6 packet behind
 * its address family, in both directions. A line at PATH.errors tells of each write that was refused. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int open_unit(const char *path, const char *suffix) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    snprintf(place.sun_path, sizeof place.sun_path, "%s%s", path, suffix);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&place, sizeof place) == 0)
        return fd;
    perror(place.sun_path);
    return -1;
}

/* Turn an echo request into its reply (RFC 792): the addresses change places, type 8 becomes 0, and the checksum with it
 * (RFC 1624). False: it is something else. */
static int answer(uint8_t *ip, ssize_t len) {
    ssize_t head = len < 20 ? 0 : (ip[0] & 15) * 4;
    if (len < 20 || ip[0] >> 4 != 4 || ip[9] != 1 || len < head + 8 || ip[head] != 8)
        return 0;
    uint8_t source[4];
    memcpy(source, ip + 12, 4);
    memcpy(ip + 12, ip + 16, 4);
    memcpy(ip + 16, source, 4);
    ip[head] = 0;
    uint32_t sum = (ip[head + 2] << 8 | ip[head + 3]) + 0x800;
    sum += sum >> 16;
    ip[head + 2] = sum >> 8;
    ip[head + 3] = sum;
    return 1;
}

int main(int count, char **words) {
    static uint8_t message[4 + 65536];
    int unit = count == 2 ? open_unit(words[1], "") : -1, errors = unit < 0 ? -1 : open_unit(words[1], ".errors");
    struct pollfd both[] = {{.fd = unit, .events = POLLIN}, {.fd = errors, .events = POLLIN}};
    while (unit >= 0 && errors >= 0 && poll(both, 2, -1) > 0) {
        if (both[1].revents) { /* "NUMBER ERRNO TEXT": which write it was, and why */
            ssize_t len = read(errors, message, sizeof message);
            fprintf(stderr, "refused: %.*s", (int)len, (char *)message);
            both[1].fd = len > 0 ? errors : -1;
        }
        if (both[0].revents) {
            ssize_t len = read(unit, message, sizeof message);
            if (len <= 0) /* the end: the unit is gone */
                return 0;
            if (answer(message + 4, len - 4) && write(unit, message, len) < 0)
                perror("write");
        }
    }
    return 1;
}
