/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sockets: accept, connect, receive, send, poll, and the calls that take effect at once.
 *
 * Kernel behaviour relied on: the operations are armed inline and wait by poll, never in a worker
 * thread; multishot operations end when F_MORE is missing, whatever the result (U3); MSG_WAITALL
 * sends all or fails; accepted sockets inherit TCP_NODELAY. RECV and SEND only, never READ and
 * WRITE on sockets (U23); never IORING_OP_SHUTDOWN or _CLOSE: they resolve their descriptor late.
 *
 * Failure modes: a peer's error is the operation's result.
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

void ring_accept(struct ring *r, struct ring_op *op, struct ring_fd listener)
{
	struct io_uring_sqe *s = ring_arm(r, op, KIND_ACCEPT, IORING_OP_ACCEPT, listener.v, NULL);

	s->ioprio = IORING_ACCEPT_MULTISHOT;
	s->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
}

void finish_accept(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	d->n = 0;
	if (c->res < 0)
		return;
	d->fd.v = c->res;
	STAT(r, accepts, 1);
}

typedef int addr_call(int fd, struct sockaddr *sa, socklen_t *len);

static enum ring_res ask_addr(addr_call *call, struct ring_fd fd, struct ring_addr *out)
{
	memset(out, 0, sizeof(*out));
	out->len = sizeof(out->ss);
	if (call(fd.v, &out->sa, &out->len) == 0)
		return RING_OK;
	out->len = 0;
	return ring_res_of(errno);
}

enum ring_res ring_peer_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	return ask_addr(getpeername, fd, out);
}

enum ring_res ring_local_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	return ask_addr(getsockname, fd, out);
}

enum ring_res ring_socket(struct ring *r, const struct ring_addr *peer, const struct ring_addr *src,
	struct ring_fd *out)
{
	int one = 1, family = peer->sa.sa_family;
	int fd = fd_socket_raw(family, SOCK_NONBLOCK);

	*out = RING_FD_NONE;
	if (fd < 0)
		return ring_res_of(errno);
	if (family != AF_UNIX) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* The port is chosen at the connect, per destination: 28,000 to each, not to all.
		 */
		if (src)
			setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	}
	if (src && fd_bind_raw(fd, &src->sa, src->len) != 0) {
		enum ring_res res = ring_res_of(errno);

		fd_close_raw(fd);
		return res;
	}
	out->v = fd;
	return RING_OK;
}

void ring_connect(
	struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_addr *peer)
{
	struct io_uring_sqe *s = ring_arm(r, op, KIND_CONNECT, IORING_OP_CONNECT, fd.v, NULL);

	s->addr = (uintptr_t)&peer->sa;
	s->off = peer->len;
}

void finish_connect(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->res >= 0)
		STAT(r, connects, 1);
}

void ring_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, uint32_t cap)
{
	struct io_uring_sqe *s = ring_arm(r, op, KIND_RECV, IORING_OP_RECV, fd.v, NULL);

	STAT(r, rearms, 1);
	s->ioprio = IORING_RECV_MULTISHOT;
	s->flags = IOSQE_BUFFER_SELECT;
	s->buf_group = RING_BUF_GROUP;
	/* The kernel counts whole pieces: it ends the receive with the piece that reaches optlen,
	 * and sqe->len bounds one piece. */
	if (cap && (r->features & RING_FEAT_RECV_CAP)) {
		URING_SQE_OPTLEN(s) = cap;
		s->len = cap;
	}
}

void finish_recv(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->flags & IORING_CQE_F_BUFFER)
		bufs_take(r, c, d);
	if (c->res > 0) {
		STAT(r, recvs, 1);
		STAT(r, recv_bytes, c->res);
	} else if (c->res == 0) {
		d->res = RING_EOF;
	} else if (c->res == -ENOBUFS) {
		STAT(r, nobufs, 1);
	}
}

/* A msghdr and its iovec, the kernel's to read until their SQE is taken. */
static struct msghdr *vec_for_kernel(struct ring *r, const struct iovec *iov, unsigned n)
{
	size_t need = sizeof(struct msghdr) + n * sizeof(*iov);
	struct msghdr *m;

	_Static_assert(sizeof(struct msghdr) % _Alignof(struct iovec) == 0, "packed back to back");
	_Static_assert(sizeof(struct iovec) % _Alignof(struct msghdr) == 0, "packed back to back");
	if (r->arena_used + need > RING_ARENA_BYTES)
		ring_push(r);
	m = (struct msghdr *)(void *)(r->arena + r->arena_used);
	r->arena_used += need;
	*m = (struct msghdr){.msg_iov = (struct iovec *)(m + 1), .msg_iovlen = n};
	memcpy(m->msg_iov, iov, n * sizeof(*iov));
	return m;
}

void ring_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct iovec *iov,
	unsigned iov_count)
{
	struct msghdr *m = NULL;
	struct io_uring_sqe *s;

	ASSERT(iov_count > 0 && iov_count <= RING_IOV_MAX);
	ASSERT(iov->iov_len <= INT32_MAX);
	ring_room(r);
	if (iov_count > 1)
		m = vec_for_kernel(r, iov, iov_count);
	s = ring_arm(r, op, KIND_SEND, m ? IORING_OP_SENDMSG : IORING_OP_SEND, fd.v, NULL);
	s->addr = m ? (uintptr_t)m : (uintptr_t)iov->iov_base;
	s->len = m ? 1 : (uint32_t)iov->iov_len;
	s->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
	STAT(r, sends_ring, 1);
}

void finish_send(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	STAT(r, send_bytes, d->n);
}

size_t ring_send_now(struct ring *r, struct ring_fd fd, const struct iovec *iov, unsigned iov_count,
	enum ring_res *res)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = iov_count};
	const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	ssize_t n;

	ASSERT(iov_count > 0 && iov_count <= RING_IOV_MAX);
	STAT(r, sends_now, 1);
	do
		n = iov_count == 1 ? send(fd.v, iov->iov_base, iov->iov_len, flags)
				   : sendmsg(fd.v, &m, flags);
	while (n < 0 && errno == EINTR);
	*res = n < 0 ? ring_res_of(errno) : RING_OK;
	if (n <= 0)
		return 0;
	STAT(r, send_bytes, n);
	return (size_t)n;
}

void ring_poll(struct ring *r, struct ring_op *op, struct ring_fd fd, short events)
{
	struct io_uring_sqe *s = ring_arm(r, op, KIND_POLL, IORING_OP_POLL_ADD, fd.v, NULL);

	s->poll32_events = (uint16_t)events;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	s->poll32_events <<= 16; /* the ABI swaps the two halves there */
#endif
}

void ring_shut(struct ring *r, struct ring_fd fd)
{
	shutdown(fd.v, SHUT_WR);
}

void ring_linger_reset(struct ring *r, struct ring_fd fd)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd.v, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

void ring_close_fd(struct ring *r, struct ring_fd *fd)
{
	ASSERT(ring_fd_ok(*fd));
	/* An armed operation holds the file: the peer would see no FIN (U1). */
	ASSERT((uint32_t)fd->v >= r->fd_ops_count || r->fd_ops[fd->v] == 0);
	fd_close_raw(fd->v);
	STAT(r, closes, 1);
	*fd = RING_FD_NONE;
}
