/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the running kernel offers, each row found by doing it once on a small ring of its own, and
 * the barriers in words. Start only: system calls, files of /proc, a few seconds of waiting at
 * worst.
 *
 * Failure modes: a row that fails is off; a row without a fall-back makes feat_probe() fail with
 * the reason. Trial rings are charged to RLIMIT_MEMLOCK for a moment.
 */
#include "ring/feat.h"
#include "ring/ring_int.h"

#include <errno.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>

#define TRIAL_BUFS 16u
#define TRIAL_BUF_BYTES 1024u
#define SETUP_FLOOR (IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_SINGLE_ISSUER)

/* ---- a small ring, a pair of sockets, a few buffers ---- */

struct trial {
	struct io_uring u;
	struct io_uring_params p;
	struct io_uring_buf_ring *shared;
	uint8_t *mem;
	int fd[2];
	bool made;
};

static int trial_ring(struct trial *t, unsigned flags)
{
	const struct timespec pause = {.tv_nsec = RING_RETRY_NS};
	int err = -ENOMEM;

	*t = (struct trial){.fd = {-1, -1}};
	for (unsigned i = 0; i < RING_RETRIES && err == -ENOMEM; i++) {
		t->p = (struct io_uring_params){.flags = SETUP_FLOOR | flags};
		err = io_uring_queue_init_params(8, &t->u, &t->p);
		if (err == -ENOMEM)
			nanosleep(&pause, NULL);
	}
	t->made = err == 0;
	return err;
}

static void trial_end(struct trial *t)
{
	for (unsigned i = 0; i < 2; i++)
		if (t->fd[i] >= 0)
			fd_close_raw(t->fd[i]);
	if (t->shared)
		io_uring_unregister_buf_ring(&t->u, 1);
	if (t->made)
		ring_queue_exit(&t->u);
	if (t->mem)
		munmap(t->mem, TRIAL_BUFS * (TRIAL_BUF_BYTES + sizeof(struct io_uring_buf)));
}

/* Buffers in front, their ring entries behind them: 16 KiB are whole pages. */
static bool trial_bufs(struct trial *t, unsigned flags)
{
	struct io_uring_buf_reg reg = {.ring_entries = TRIAL_BUFS, .bgid = 1, .pad = (__u16)flags};
	size_t n = TRIAL_BUFS * (TRIAL_BUF_BYTES + sizeof(struct io_uring_buf));
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct io_uring_buf_ring *br;

	if (p == MAP_FAILED)
		return false;
	t->mem = p;
	br = (struct io_uring_buf_ring *)(void *)(t->mem + TRIAL_BUFS * TRIAL_BUF_BYTES);
	reg.ring_addr = (uintptr_t)br;
	io_uring_buf_ring_init(br);
	if (io_uring_register_buf_ring(&t->u, &reg, 0) != 0)
		return false;
	t->shared = br;
	for (unsigned i = 0; i < TRIAL_BUFS; i++)
		io_uring_buf_ring_add(br, t->mem + i * TRIAL_BUF_BYTES, TRIAL_BUF_BYTES,
			(unsigned short)i, TRIAL_BUFS - 1, (int)i);
	io_uring_buf_ring_advance(br, TRIAL_BUFS);
	return true;
}

static struct io_uring_sqe *trial_sqe(struct trial *t, uint8_t opcode, int fd)
{
	struct io_uring_sqe *s = io_uring_get_sqe(&t->u);

	ASSERT(s);
	memset(s, 0, sizeof(*s));
	s->opcode = opcode;
	s->fd = fd;
	return s;
}

/* Submits and takes one completion, within a second. */
static bool trial_next(struct trial *t, struct seen *out)
{
	struct __kernel_timespec second = {.tv_sec = 1};
	struct io_uring_cqe *c = NULL;

	io_uring_submit_and_wait_timeout(&t->u, &c, 1, &second, NULL);
	if (io_uring_peek_cqe(&t->u, &c) != 0 || !c)
		return false;
	*out = (struct seen){c->user_data, c->res, c->flags};
	io_uring_cqe_seen(&t->u, c);
	return true;
}

static void trial_recv(struct trial *t, uint32_t cap)
{
	struct io_uring_sqe *s = trial_sqe(t, IORING_OP_RECV, t->fd[0]);

	s->ioprio = IORING_RECV_MULTISHOT;
	s->flags = IOSQE_BUFFER_SELECT;
	s->buf_group = 1;
	URING_SQE_OPTLEN(s) = s->len = cap;
}

static bool trial_pair(struct trial *t)
{
	return syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, t->fd) == 0;
}

/* A connected TCP pair over loopback. */
static bool trial_tcp(struct trial *t)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int l = fd_socket_raw(AF_INET, 0);
	bool ok = l >= 0 && fd_bind_raw(l, &a, n) == 0 && fd_listen_raw(l, 1) == 0 &&
		  getsockname(l, (struct sockaddr *)&a, &n) == 0;

	if (ok) {
		t->fd[0] = fd_socket_raw(AF_INET, 0);
		ok = t->fd[0] >= 0 && fd_connect_raw(t->fd[0], &a, n) == 0;
	}
	if (ok)
		t->fd[1] = (int)syscall(SYS_accept4, l, NULL, NULL, SOCK_CLOEXEC);
	if (l >= 0)
		fd_close_raw(l);
	return ok && t->fd[1] >= 0;
}

/* ---- the rows ---- */

static bool try_ring(void)
{
	struct trial t;
	bool ok = trial_ring(&t, IORING_SETUP_COOP_TASKRUN) == 0;
	const unsigned need = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG;

	ok = ok && (t.p.features & need) == need;
	trial_end(&t);
	return ok;
}

static bool try_accept(void)
{
	struct sockaddr_un_any {
		sa_family_t family;
	} any = {AF_UNIX}; /* autobind: an abstract name of the kernel's choice */
	struct sockaddr_storage at;
	socklen_t n = sizeof(at);
	struct trial t;
	struct seen c = {0};
	bool ok = trial_ring(&t, 0) == 0;

	t.fd[0] = fd_socket_raw(AF_UNIX, 0);
	t.fd[1] = fd_socket_raw(AF_UNIX, 0);
	ok = ok && t.fd[0] >= 0 && fd_bind_raw(t.fd[0], &any, sizeof(any)) == 0 &&
	     fd_listen_raw(t.fd[0], 1) == 0 &&
	     getsockname(t.fd[0], (struct sockaddr *)&at, &n) == 0;
	if (ok) {
		trial_sqe(&t, IORING_OP_ACCEPT, t.fd[0])->ioprio = IORING_ACCEPT_MULTISHOT;
		ok = fd_connect_raw(t.fd[1], &at, n) == 0 && trial_next(&t, &c) && c.res >= 0 &&
		     (c.flags & IORING_CQE_F_MORE);
	}
	if (ok)
		fd_close_raw(c.res);
	trial_end(&t);
	return ok;
}

static bool try_recv(void)
{
	struct trial t;
	struct seen c;
	bool ok = trial_ring(&t, 0) == 0 && trial_pair(&t) && trial_bufs(&t, 0);

	if (ok) {
		trial_recv(&t, 0);
		ok = send(t.fd[1], "ab", 2, MSG_NOSIGNAL) == 2 && trial_next(&t, &c) &&
		     c.res == 2 && (c.flags & IORING_CQE_F_MORE) && (c.flags & IORING_CQE_F_BUFFER);
	}
	trial_end(&t);
	return ok;
}

/* Two short receives lie one behind the other in the same buffer, which stays the kernel's. */
static bool try_incremental(void)
{
	static const char *const piece[2] = {"abc", "de"};
	struct trial t;
	struct seen c;
	unsigned at = 0, buf = 0;
	bool ok = trial_ring(&t, 0) == 0 && trial_pair(&t) && trial_bufs(&t, URING_PBUF_RING_INC);

	if (ok)
		trial_recv(&t, 0);
	for (unsigned i = 0; ok && i < 2; i++) {
		size_t n = strlen(piece[i]);

		ok = send(t.fd[1], piece[i], n, MSG_NOSIGNAL) == (ssize_t)n && trial_next(&t, &c) &&
		     c.res == (int)n && (c.flags & IORING_CQE_F_BUFFER) &&
		     (c.flags & URING_CQE_F_BUF_MORE);
		if (!ok)
			break;
		if (i == 0)
			buf = c.flags >> IORING_CQE_BUFFER_SHIFT;
		ok = c.flags >> IORING_CQE_BUFFER_SHIFT == buf && buf < TRIAL_BUFS &&
		     memcmp(t.mem + buf * TRIAL_BUF_BYTES + at, piece[i], n) == 0;
		at += (unsigned)n;
	}
	trial_end(&t);
	return ok;
}

/* One receive of at most `max` octets in pieces of at most `max`; buffers hold 1 KiB. */
static bool cap_holds(int max)
{
	const uint8_t data[8192] = {0};
	struct trial t;
	struct seen c = {.flags = IORING_CQE_F_MORE};
	int got = 0;
	bool ok = trial_ring(&t, 0) == 0 && trial_pair(&t) && trial_bufs(&t, 0) &&
		  send(t.fd[1], data, sizeof(data), MSG_NOSIGNAL) == (ssize_t)sizeof(data);

	if (ok)
		trial_recv(&t, (uint32_t)max);
	while (ok && (c.flags & IORING_CQE_F_MORE)) {
		ok = trial_next(&t, &c) && c.res > 0 && c.res <= max;
		got += ok ? c.res : 0;
	}
	trial_end(&t);
	return ok && got == max;
}

/* Both bounds that ring_recv() uses: of a piece (less than a buffer) and of the sum (several). */
static bool try_cap(void)
{
	return cap_holds(512) && cap_holds(2048);
}

static bool try_defer(void)
{
	struct trial t;
	bool ok = trial_ring(&t, IORING_SETUP_DEFER_TASKRUN) == 0;

	trial_end(&t);
	return ok;
}

static bool try_reg_fd(void)
{
	struct trial t;
	struct seen c;
	bool ok = trial_ring(&t, 0) == 0 && io_uring_register_ring_fd(&t.u) == 1;

	if (ok) {
		trial_sqe(&t, IORING_OP_NOP, -1);
		ok = trial_next(&t, &c) && c.res == 0;
	}
	trial_end(&t);
	return ok;
}

static bool try_no_iowait(void)
{
	struct trial t;
	bool ok = trial_ring(&t, 0) == 0 && (t.p.features & URING_FEAT_NO_IOWAIT);

	/* Nothing to wait for: the call only has to know the flag. */
	ok = ok && io_uring_enter((unsigned)t.u.ring_fd, 0, 0,
			   IORING_ENTER_GETEVENTS | URING_ENTER_NO_IOWAIT, NULL) >= 0;
	trial_end(&t);
	return ok;
}

static bool try_send_zc(void)
{
	struct trial t;
	struct seen c;
	struct iovec v = {.iov_len = TRIAL_BUF_BYTES};
	bool ok = trial_ring(&t, 0) == 0 && trial_tcp(&t) && trial_bufs(&t, 0);

	v.iov_base = t.mem;
	ok = ok && io_uring_register_buffers(&t.u, &v, 1) == 0;
	if (ok) {
		struct io_uring_sqe *s = trial_sqe(&t, IORING_OP_SEND_ZC, t.fd[0]);

		s->addr = (uintptr_t)t.mem;
		s->len = TRIAL_BUF_BYTES;
		s->ioprio = IORING_RECVSEND_FIXED_BUF;
		ok = trial_next(&t, &c) && c.res == (int)TRIAL_BUF_BYTES;
	}
	trial_end(&t);
	return ok;
}

const struct feat_row feat_rows[] = {
	{0, "io_uring", "6.0", NULL, try_ring},
	{0, "multishot accept", "5.19", NULL, try_accept},
	{0, "multishot receive into provided buffers", "6.0", NULL, try_recv},
	{RING_FEAT_PBUF_INC, "incremental receive buffers", "6.12", "plain buffers of 16 KiB",
		try_incremental},
	{RING_FEAT_RECV_CAP, "byte cap of a receive", "6.17", "cancel at the high-water mark",
		try_cap},
	{RING_FEAT_DEFER, "deferred task work", "6.1", "cooperative task work", try_defer},
	{RING_FEAT_REG_FD, "registered ring descriptor", "5.18", "the plain descriptor",
		try_reg_fd},
	{RING_FEAT_NO_IOWAIT, "idle rings not shown as iowait", "6.15",
		"idle cores may show as iowait", try_no_iowait},
	{RING_FEAT_SEND_ZC, "zero-copy send", "6.0", "copying sends", try_send_zc},
};
const size_t feat_row_count = ARRAY_LEN(feat_rows);

/* The first row again, for its errno. */
static int setup_error(void)
{
	struct trial t;
	int err = trial_ring(&t, IORING_SETUP_COOP_TASKRUN);

	trial_end(&t);
	return -err;
}

bool feat_probe(uint32_t *bits, struct ring_barrier *why)
{
	struct ring_conf small;

	*bits = 0;
	for (size_t i = 0; i < feat_row_count; i++) {
		const struct feat_row *f = &feat_rows[i];
		int err;

		if (f->try_it()) {
			*bits |= f->bit;
			continue;
		}
		if (f->without)
			continue;
		ring_conf_defaults(&small);
		err = setup_error();
		feat_explain(err ? err : EINVAL, &small, why);
		if (!err)
			snprintf(why->what, sizeof(why->what), "this kernel lacks %s", f->name);
		return false;
	}
	return true;
}

/* ---- limits ---- */

static uint64_t whole_pages(uint64_t n)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (n + page - 1) / page * page;
}

/* As 6.14 and later charge it, checked against 6.18: one mapping for both queues behind a header of
 * some cache lines, one for the SQEs, the buffer ring (its buffers are not locked), and registered
 * buffers whole. Kernels before charge less. */
uint64_t feat_memlock_needed(const struct ring_conf *c)
{
	const uint64_t header = 512;
	unsigned count, bytes;
	uint64_t n;

	bufs_shape(c, !(c->features_off & RING_FEAT_PBUF_INC), &count, &bytes);
	n = whole_pages(header + c->cq_entries * sizeof(struct io_uring_cqe) +
			c->sq_entries * sizeof(uint32_t));
	n += whole_pages(c->sq_entries * sizeof(struct io_uring_sqe));
	n += whole_pages(count * sizeof(struct io_uring_buf));
	n += whole_pages((uint64_t)c->zc_count * c->zc_bytes);
	return n;
}

static bool has_ipc_lock(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3] = {{0}};

	return syscall(SYS_capget, &h, d) == 0 && (d[0].effective & (1u << CAP_IPC_LOCK));
}

uint64_t feat_memlock_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_MEMLOCK, &l) != 0 || l.rlim_cur == RLIM_INFINITY || has_ipc_lock())
		return UINT64_MAX;
	return l.rlim_cur;
}

uint64_t feat_nofile_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return l.rlim_cur;
}

/* ---- barriers in words ---- */

/* The number in `path` behind `key` ("" = at its start); -1 when there is none. */
static long proc_number(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	char line[256];
	long v = -1;

	if (!f)
		return -1;
	while (v < 0 && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			v = strtol(line + strlen(key), NULL, 10);
	fclose(f);
	return v;
}

#define WHAT(...) snprintf(why->what, sizeof(why->what), __VA_ARGS__)
#define FIX(...) snprintf(why->fix, sizeof(why->fix), __VA_ARGS__)

static void explain_refused(int err, struct ring_barrier *why)
{
	long sysctl = proc_number("/proc/sys/kernel/io_uring_disabled", "");

	if (sysctl == 2) {
		WHAT("io_uring is disabled by sysctl (kernel.io_uring_disabled=2)");
		FIX("sysctl -w kernel.io_uring_disabled=0, and the same in a file of "
		    "/etc/sysctl.d; 1 with kernel.io_uring_group is enough");
	} else if (sysctl == 1) {
		WHAT("io_uring is limited by sysctl (kernel.io_uring_disabled=1)");
		FIX("sysctl -w kernel.io_uring_group=GID with a group of this user, or "
		    "kernel.io_uring_disabled=0");
	} else if (proc_number("/proc/self/status", "Seccomp:") == 2) {
		WHAT("io_uring is blocked by a seccomp filter");
		FIX("allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp "
		    "profile of the container or unit (Docker: --security-opt seccomp=FILE)");
	} else if (err == ENOSYS) {
		WHAT("this kernel has no io_uring");
		FIX("run Linux 6.1 or newer, built with CONFIG_IO_URING");
	} else {
		WHAT("io_uring is refused by a security module");
		FIX("allow io_uring for ringpost in the SELinux or AppArmor policy");
	}
}

static void explain_memory(const struct ring_conf *c, struct ring_barrier *why)
{
	uint64_t need = feat_memlock_needed(c), limit = feat_memlock_limit();

	if (limit == UINT64_MAX) {
		WHAT("the kernel has no memory for a ring");
		FIX("free memory, or raise the memory limit of the cgroup");
		return;
	}
	WHAT("RLIMIT_MEMLOCK is too small: %llu bytes", (unsigned long long)limit);
	FIX("each worker needs %llu bytes, charged to the user: raise LimitMEMLOCK= in the unit "
	    "(or ulimit -l), or run fewer workers",
		(unsigned long long)need);
}

void feat_explain(int err, const struct ring_conf *c, struct ring_barrier *why)
{
	struct utsname u;

	switch (err) {
	case EPERM:
	case EACCES:
	case ENOSYS:
		explain_refused(err, why);
		break;
	case ENOMEM:
		explain_memory(c, why);
		break;
	case EMFILE:
		WHAT("RLIMIT_NOFILE is used up: %llu", (unsigned long long)feat_nofile_limit());
		FIX("raise LimitNOFILE= in the unit (or ulimit -n)");
		break;
	case ENFILE:
		WHAT("the system has no descriptor left (fs.file-max)");
		FIX("sysctl -w fs.file-max=N, or find who holds them");
		break;
	case EINVAL:
		WHAT("this kernel is too old: %.64s", uname(&u) == 0 ? u.release : "?");
		FIX("run Linux 6.1 or newer; 6.12 is recommended");
		break;
	default:
		WHAT("io_uring_setup failed: %s", strerror(err));
		FIX("see io_uring_setup(2)");
	}
}
