/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The probe and the barriers. The barriers are made for real in forked children: a seccomp filter,
 * a small RLIMIT_MEMLOCK without CAP_IPC_LOCK, no descriptors. The sysctl is global and only its
 * words are checked where the machine has it set.
 */
#include "ringtest.h"

#include "ring/feat.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Runs `body` in a child of its own; true when it returned 0. */
static bool in_child(int (*body)(void *arg), void *arg)
{
	pid_t p = fork();
	int st;

	if (p == 0)
		_exit(body(arg));
	cr_assert_eq(waitpid(p, &st, 0), p);
	return WIFEXITED(st) && WEXITSTATUS(st) == 0;
}

Test(feat, probe_agrees_with_its_rows)
{
	struct ring_barrier why;
	uint32_t bits, expect = 0, known = 0;

	cr_assert(feat_probe(&bits, &why));
	for (size_t i = 0; i < feat_row_count; i++) {
		const struct feat_row *f = &feat_rows[i];

		cr_assert(f->name && f->since && f->try_it);
		cr_assert_eq(f->bit == 0, f->without == NULL);
		cr_assert_eq(known & f->bit, 0);
		known |= f->bit;
		if (f->try_it())
			expect |= f->bit;
		else
			cr_assert_not_null(f->without, "%s", f->name);
	}
	cr_assert_eq(bits, expect);
	cr_assert_eq(known, RING_FEAT_PBUF_INC | RING_FEAT_RECV_CAP | RING_FEAT_DEFER |
				    RING_FEAT_REG_FD | RING_FEAT_NO_IOWAIT | RING_FEAT_SEND_ZC);
}

static int count_fds(void)
{
	int n = 0;

	for (int i = 0; i < 1024; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

Test(feat, probe_leaves_nothing_open)
{
	struct ring_barrier why;
	uint32_t bits;
	int before = count_fds();

	for (int i = 0; i < 10; i++)
		cr_assert(feat_probe(&bits, &why));
	cr_assert_eq(count_fds(), before);
}

Test(feat, features_can_be_switched_off)
{
	struct ring_conf c;
	struct ring_barrier why;
	uint32_t bits;
	struct ring *r;

	ring_conf_defaults(&c);
	cr_assert(feat_probe(&bits, &why));
	r = ring_open(&c, &why);
	cr_assert_not_null(r);
	cr_assert_eq(ring_features(r), bits);
	ring_close(r);
	c.features_off = UINT32_MAX;
	r = ring_open(&c, &why);
	cr_assert_not_null(r);
	cr_assert_eq(ring_features(r), 0);
	ring_turn(r, 0);
	ring_close(r);
}

/* ---- locked memory ---- */

struct memlock_case {
	uint64_t limit;
	unsigned zc_count;
	unsigned rings;
	uid_t uid;
	bool must_open;
};

/* Another user each time: what the kernel charges is summed up per user. */
static int open_within(void *arg)
{
	const struct memlock_case *m = arg;
	struct rlimit l = {m->limit, m->limit};
	struct ring_barrier why = {{0}, {0}};
	struct ring_conf c;
	struct ring *r[4] = {0};
	char need[32];

	ring_conf_defaults(&c);
	c.zc_count = m->zc_count;
	if (setrlimit(RLIMIT_MEMLOCK, &l) || setresgid(m->uid, m->uid, m->uid) ||
		setresuid(m->uid, m->uid, m->uid) || feat_memlock_limit() != m->limit)
		return 1;
	for (unsigned i = 0; i < m->rings; i++) {
		r[i] = ring_open(&c, &why);
		if (r[i])
			ring_turn(r[i], 0);
	}
	if (m->must_open)
		return r[m->rings - 1] ? 0 : 2;
	snprintf(need, sizeof(need), "%llu", (unsigned long long)feat_memlock_needed(&c));
	if (r[0])
		return 3;
	return strstr(why.what, "RLIMIT_MEMLOCK") && strstr(why.fix, need) ? 0 : 4;
}

static uint64_t default_need(unsigned zc_count)
{
	struct ring_conf c;

	ring_conf_defaults(&c);
	c.zc_count = zc_count;
	return feat_memlock_needed(&c);
}

/* U18: the number printed is the number needed: it opens, and a page less does not. */
Test(feat, memlock_needed_is_enough)
{
	struct memlock_case m = {default_need(0), 0, 1, 61001, true};

	if (getuid() != 0)
		cr_skip_test("needs root to become other users");
	cr_assert(in_child(open_within, &m));
}

Test(feat, memlock_too_small_is_explained)
{
	struct memlock_case m = {default_need(0) - 4096, 0, 1, 61002, false};
	struct memlock_case none = {0, 0, 1, 61005, true};

	if (getuid() != 0)
		cr_skip_test("needs root to become other users");
	if (in_child(open_within, &none))
		cr_skip_test("this kernel does not charge rings (before 6.14)");
	cr_assert(in_child(open_within, &m));
}

Test(feat, memlock_two_workers_twice_in_8_mib)
{
	struct memlock_case m = {8u << 20, 0, 4, 61003, true};

	if (getuid() != 0)
		cr_skip_test("needs root to become other users");
	cr_assert_leq(2 * 2 * default_need(0), 8u << 20);
	cr_assert(in_child(open_within, &m));
}

/* Registered buffers that do not fit are done without. */
Test(feat, memlock_without_room_for_zero_copy)
{
	struct memlock_case m = {default_need(0), 64, 1, 61004, true};

	if (getuid() != 0)
		cr_skip_test("needs root to become other users");
	cr_assert(in_child(open_within, &m));
}

/* ---- the other barriers ---- */

static int seccomp_says(void *arg)
{
	uint32_t err = *(uint32_t *)arg;
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {ARRAY_LEN(f), f};
	struct ring_barrier why = {{0}, {0}};
	struct ring_conf c;

	ring_conf_defaults(&c);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
		return 1;
	if (ring_open(&c, &why))
		return 2;
	return strstr(why.what, "seccomp") && strstr(why.fix, "io_uring_setup") ? 0 : 3;
}

Test(feat, seccomp_is_named)
{
	uint32_t err[] = {EPERM, ENOSYS};

	for (size_t i = 0; i < ARRAY_LEN(err); i++)
		cr_assert(in_child(seccomp_says, &err[i]));
}

static int no_descriptors(void *arg)
{
	struct rlimit l = {3, 3};
	struct ring_barrier why = {{0}, {0}};
	struct ring_conf c;

	ring_conf_defaults(&c);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	if (setrlimit(RLIMIT_NOFILE, &l))
		return 1;
	if (ring_open(&c, &why))
		return 2;
	return strstr(why.what, "RLIMIT_NOFILE") && strstr(why.what, "3") ? 0 : 3;
}

Test(feat, no_descriptors_is_named)
{
	cr_assert(in_child(no_descriptors, NULL));
}

Test(feat, every_error_has_words_and_a_fix)
{
	static const int err[] = {EPERM, EACCES, ENOSYS, ENOMEM, EMFILE, ENFILE, EINVAL, EFAULT};
	struct ring_conf c;

	ring_conf_defaults(&c);
	for (size_t i = 0; i < ARRAY_LEN(err); i++) {
		struct ring_barrier why = {{0}, {0}};

		feat_explain(err[i], &c, &why);
		cr_assert(why.what[0] && why.fix[0]);
		cr_assert_lt(strlen(why.fix), sizeof(why.fix) - 1, "cut off: %s", why.fix);
		cr_assert_lt(strlen(why.what), sizeof(why.what) - 1, "cut off: %s", why.what);
	}
	cr_assert_gt(feat_nofile_limit(), 0);
}
