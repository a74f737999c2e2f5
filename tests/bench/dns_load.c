/* A load generator for DNS over UDP that costs less than the servers it measures.
 *
 *   dns_load ADDRESS PORT SECONDS OUTSTANDING RATE NAMES
 *
 * RATE 0 is a closed loop: OUTSTANDING questions are always under way, on 8 sockets. Otherwise RATE
 * questions a second are sent at their time whether answers come or not. Questions are A for
 * s0.mesh … s<NAMES-1>.mesh in turn. An answer has to have the question's ID, NOERROR and three
 * records. Written to stdout: sent, answered, wrong, seconds, and the latencies p50, p90, p99 and
 * largest in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 8, BATCH = 32, SIZE = 512, IDS = 65536, LATENCIES = 1 << 23 };

struct lane {
    int fd;
    uint64_t *sent_at;              /* by ID; 0: not under way */
    uint16_t next_id;
};

static struct lane lanes[SOCKETS];
static unsigned char (*questions)[SIZE];
static int *question_sizes;
static int names;
static long next_name;
static uint32_t *latencies;
static long sent, answered, wrong;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void build_questions(void)
{
    questions = calloc((size_t)names, SIZE);
    question_sizes = calloc((size_t)names, sizeof *question_sizes);
    for (int i = 0; i < names; i++) {
        unsigned char *q = questions[i];
        int size = 12;
        q[2] = 1;                   /* RD */
        q[5] = 1;                   /* one question */
        int label = sprintf((char *)q + size + 1, "s%d", i);
        q[size] = (unsigned char)label;
        size += 1 + label;
        memcpy(q + size, "\4mesh\0\0\1\0\1", 10);
        question_sizes[i] = size + 10;
    }
}

static void open_lanes(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    for (int i = 0; i < SOCKETS; i++) {
        int buffer = 1 << 22;
        lanes[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(lanes[i].fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        if (connect(lanes[i].fd, (struct sockaddr *)&to, sizeof to))
            die("connect");
        lanes[i].sent_at = calloc(IDS, sizeof *lanes[i].sent_at);
    }
}

static void send_some(struct lane *lane, int count)
{
    static unsigned char buffers[BATCH][SIZE];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        int name = (int)(next_name++ % names);
        uint16_t id = lane->next_id++;
        memcpy(buffers[i], questions[name], (size_t)question_sizes[name]);
        buffers[i][0] = (unsigned char)(id >> 8);
        buffers[i][1] = (unsigned char)id;
        vectors[i] = (struct iovec){buffers[i], (size_t)question_sizes[name]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        lane->sent_at[id] = now;
    }
    for (int done = 0; done < count;) {
        int n = sendmmsg(lane->fd, messages + done, (unsigned)(count - done), 0);
        if (n > 0)
            done += n;
        else if (errno != EAGAIN && errno != ECONNREFUSED)
            die("sendmmsg");
    }
    sent += count;
}

static int receive_some(struct lane *lane)
{
    static unsigned char buffers[BATCH][SIZE];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){buffers[i], SIZE};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    int n = recvmmsg(lane->fd, messages, BATCH, MSG_DONTWAIT, NULL);
    if (n <= 0)
        return 0;
    uint64_t now = now_ns();
    int counted = 0;
    for (int i = 0; i < n; i++) {
        unsigned char *reply = buffers[i];
        uint16_t id = (uint16_t)(reply[0] << 8 | reply[1]);
        if (messages[i].msg_len < 12 || !lane->sent_at[id])
            continue;
        if (answered < LATENCIES)
            latencies[answered] = (uint32_t)((now - lane->sent_at[id]) / 1000);
        lane->sent_at[id] = 0;
        answered++;
        counted++;
        if ((reply[3] & 15) || reply[7] != 3)
            wrong++;
    }
    return counted;
}

static void wait_for_any(int milliseconds)
{
    struct pollfd fds[SOCKETS];
    for (int i = 0; i < SOCKETS; i++)
        fds[i] = (struct pollfd){.fd = lanes[i].fd, .events = POLLIN};
    poll(fds, SOCKETS, milliseconds);
}

static void closed_loop(uint64_t end, int outstanding)
{
    int each = outstanding / SOCKETS;
    for (int i = 0; i < SOCKETS; i++)
        send_some(&lanes[i], each);
    uint64_t last = now_ns();
    while (now_ns() < end) {
        int got = 0;
        for (int i = 0; i < SOCKETS; i++) {
            int n = receive_some(&lanes[i]);
            if (n)
                send_some(&lanes[i], n);
            got += n;
        }
        if (got)
            last = now_ns();
        else
            wait_for_any(20);
        if (now_ns() - last > 200000000u) {     /* all were lost: begin anew */
            for (int i = 0; i < SOCKETS; i++)
                send_some(&lanes[i], each);
            last = now_ns();
        }
    }
}

static void open_loop(uint64_t start, uint64_t end, long rate)
{
    uint64_t now;
    for (long i = 0; (now = now_ns()) < end;) {
        uint64_t due = start + (uint64_t)i * 1000000000u / (uint64_t)rate;
        if (now >= due) {
            send_some(&lanes[i % SOCKETS], 1);
            i++;
        }
        for (int lane = 0; lane < SOCKETS; lane++)
            receive_some(&lanes[lane]);
    }
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: dns_load ADDRESS PORT SECONDS OUTSTANDING RATE NAMES\n");
        return 2;
    }
    double seconds = atof(argv[3]);
    int outstanding = atoi(argv[4]);
    long rate = atol(argv[5]);
    names = atoi(argv[6]);
    latencies = malloc(sizeof *latencies * LATENCIES);
    build_questions();
    open_lanes(argv[1], atoi(argv[2]));
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
    if (rate)
        open_loop(start, end, rate);
    else
        closed_loop(end, outstanding);
    double took = (double)(now_ns() - start) / 1e9;
    for (uint64_t last = now_ns(); answered < sent && now_ns() - last < 1000000000u;) {
        wait_for_any(50);
        for (int i = 0; i < SOCKETS; i++)
            receive_some(&lanes[i]);
    }
    long n = answered < LATENCIES ? answered : LATENCIES;
    qsort(latencies, (size_t)n, sizeof *latencies, by_size);
    printf("%ld %ld %ld %.4f %u %u %u %u\n", sent, answered, wrong, took,
           n ? latencies[n / 2] : 0, n ? latencies[n * 9 / 10] : 0,
           n ? latencies[n * 99 / 100] : 0, n ? latencies[n - 1] : 0);
    return 0;
}
