/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The far side of the conformance scripts on the real kernel: plain sockets of 127.0.0.1, never
 * blocking longer than a connect to a listener of ours takes. Not part of the data path.
 *
 * To leave accept(2) without descriptors the limit of the process is lowered for a moment: other
 * threads feel it, so this is for `doctor` and for tests. The soft limit is raised to the hard one
 * while scripts run, for the one with a thousand connections.
 *
 * Failure modes: no descriptor, no port: told by false or -1.
 */
#include "ring/listen.h"
#include "ring/probe.h"
#include "ring/ring_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

#define SMALL_SEND_BYTES (64 << 10)
/* Large enough for whole loopback segments: a smaller window ends in the persist timer's 200 ms. */
#define SMALL_RECV_BYTES (256 << 10)
#define TIGHT_RECV_BYTES 4096
#define FILES_APART 64u /* kept for the ring and everything else */
#define STUFFING_MAX 8u

static struct loopback {
	struct rlimit files; /* as it was found */
	enum probe_room room;
	struct ring_fd server;	    /* RING_FD_NONE = none */
	int stuffing[STUFFING_MAX]; /* clients that fill a backlog */
	unsigned stuffing_count;
} loopback;

static bool lo_begin(void *arg, const struct probe_world *w)
{
	struct loopback *o = arg;
	struct rlimit all;

	*o = (struct loopback){.room = w->room, .server = RING_FD_NONE};
	if (getrlimit(RLIMIT_NOFILE, &o->files) != 0)
		return false;
	all = o->files;
	all.rlim_cur = all.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &all) == 0;
}

static void lo_end(void *arg, bool left)
{
	struct loopback *o = arg;

	listen_close(&o->server);
	while (o->stuffing_count)
		fd_close_raw(o->stuffing[--o->stuffing_count]);
	(void)setrlimit(RLIMIT_NOFILE, &o->files);
}

static unsigned lo_pairs_max(void *arg)
{
	const struct loopback *o = arg;
	rlim_t n = MIN_OF(o->files.rlim_max, (rlim_t)1u << 20);

	return n > 2 * FILES_APART ? (unsigned)(n - FILES_APART) / 2 : FILES_APART / 2;
}

static bool lo_listen(void *arg, struct ring_fd *out)
{
	const struct loopback *o = arg;
	int bytes = SMALL_SEND_BYTES;
	struct ring_addr a;

	if (!addr_parse(SPAN_LIT("127.0.0.1:0"), &a) ||
		listen_open(&a, 1024, false, out) != RING_OK)
		return false;
	/* Inherited by what it accepts. */
	if (o->room == PROBE_SMALL)
		setsockopt(out->v, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return true;
}

static void lo_unlisten(void *arg, struct ring_fd *fd)
{
	listen_close(fd);
}

static int dial(const struct loopback *o, const struct ring_addr *at, int flags)
{
	int bytes = o->room == PROBE_TIGHT ? TIGHT_RECV_BYTES : SMALL_RECV_BYTES;
	int fd = fd_socket_raw(AF_INET, flags), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (o->room != PROBE_ROOMY)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (fd_connect_raw(fd, &at->sa, at->len) == 0 || errno == EINPROGRESS)
		return fd;
	fd_close_raw(fd);
	return -1;
}

static int lo_dial(void *arg, struct ring_fd listener)
{
	struct ring_addr at;

	listen_addr(listener, &at);
	return dial(arg, &at, 0);
}

/* A backlog of none that is filled: what connects then is not answered. */
static bool lo_stuff(struct loopback *o, const struct ring_addr *at)
{
	if (fd_listen_raw(o->server.v, 0) != 0)
		return false;
	while (o->stuffing_count < 4) {
		int fd = dial(o, at, SOCK_NONBLOCK);

		if (fd < 0)
			return false;
		o->stuffing[o->stuffing_count++] = fd;
	}
	return true;
}

static bool lo_serve(void *arg, enum probe_server mode, struct ring_addr *at)
{
	struct loopback *o = arg;

	if (!addr_parse(SPAN_LIT("127.0.0.1:0"), at) ||
		listen_open(at, 16, false, &o->server) != RING_OK)
		return false;
	listen_addr(o->server, at);
	if (mode == PROBE_REFUSES)
		listen_close(&o->server);
	return mode != PROBE_HANGS || lo_stuff(o, at);
}

static int lo_answer(void *arg)
{
	const struct loopback *o = arg;

	return accept4(o->server.v, NULL, NULL, SOCK_CLOEXEC);
}

static size_t lo_send(void *arg, int far, const void *p, size_t n)
{
	ssize_t k = send(far, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	return k > 0 ? (size_t)k : 0;
}

static size_t lo_recv(void *arg, int far, void *p, size_t n, enum probe_sight *sight)
{
	ssize_t k = recv(far, p, n, MSG_DONTWAIT);

	if (k == 0)
		*sight = PROBE_SAW_EOF;
	else if (k < 0 && errno == ECONNRESET)
		*sight = PROBE_SAW_RESET;
	return k > 0 ? (size_t)k : 0;
}

static void lo_shut(void *arg, int far)
{
	shutdown(far, SHUT_WR);
}

static void lo_close(void *arg, int far)
{
	fd_close_raw(far);
}

static void lo_reset(void *arg, int far)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};

	setsockopt(far, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	fd_close_raw(far);
}

/* Lower than the lowest free number: nothing can be opened. */
static void lo_few_files(void *arg, bool few)
{
	struct loopback *o = arg;
	struct rlimit l = o->files;
	int lowest = few ? fcntl(0, F_DUPFD_CLOEXEC, 0) : -1;

	l.rlim_cur = l.rlim_max;
	if (lowest >= 0) {
		fd_close_raw(lowest);
		l.rlim_cur = (rlim_t)lowest;
	}
	(void)setrlimit(RLIMIT_NOFILE, &l);
}

const struct probe_far probe_far_loopback = {
	.arg = &loopback,
	.begin = lo_begin,
	.end = lo_end,
	.pairs_max = lo_pairs_max,
	.listen = lo_listen,
	.unlisten = lo_unlisten,
	.dial = lo_dial,
	.serve = lo_serve,
	.answer = lo_answer,
	.send = lo_send,
	.recv = lo_recv,
	.shut = lo_shut,
	.close = lo_close,
	.reset = lo_reset,
	.directory = "/var/tmp",
	.few_files = lo_few_files,
};
