/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring_file_open(): a file that nobody else can open, on file systems that know O_TMPFILE and on
 * one that does not. Reading and writing are in the conformance scripts (ring/probe_file.c).
 */
#include "ring/ring_int.h"
#include "tests/unit/ringtest.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

static unsigned names_in(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	cr_assert(d != NULL);
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void assert_nameless(struct ring_fd fd)
{
	struct stat st;

	cr_assert_eq(fstat(fd.v, &st), 0);
	cr_assert_eq(st.st_nlink, 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	cr_assert(fcntl(fd.v, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(fcntl(fd.v, F_GETFL) & O_ACCMODE, O_RDWR);
}

static void assert_works(struct ring *r, struct ring_fd fd)
{
	char in[] = "octets", out[16];
	struct rec *k = rec_new(r);

	ring_file_write(r, &k->op, fd, in, 6, 1u << 20);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->last.n, 6);
	ring_file_read(r, &k->op, fd, out, sizeof(out), 1u << 20);
	TURN_UNTIL(r, k->ends == 2);
	cr_assert_eq(k->last.n, 6);
	cr_assert_eq(memcmp(in, out, 6), 0);
	cr_assert_eq(ring_stats(r)->file_writes, 1);
	cr_assert_eq(ring_stats(r)->file_reads, 1);
	rec_free(k);
}

Test(file, has_no_name)
{
	struct ring *r = open_with(NULL);
	char path[] = "/var/tmp/file-XXXXXX", self[64], other[128];
	struct ring_fd fd;

	cr_assert(mkdtemp(path));
	cr_assert_eq(ring_file_open(r, path, &fd), RING_OK);
	assert_nameless(fd);
	assert_works(r, fd);
	/* And gets none. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd.v);
	snprintf(other, sizeof(other), "%s/name", path);
	cr_assert_eq(linkat(AT_FDCWD, self, AT_FDCWD, other, AT_SYMLINK_FOLLOW), -1);
	ring_close_fd(r, &fd);
	cr_assert_eq(rmdir(path), 0);
	ring_close(r);
}

Test(file, made_with_a_name_that_is_taken_away)
{
	struct ring *r = open_with(NULL);
	char path[] = "/var/tmp/file-XXXXXX";
	struct ring_fd fd;

	cr_assert(mkdtemp(path));
	cr_assert_eq(file_open_named(path, &fd), RING_OK);
	cr_assert_eq(names_in(path), 0);
	assert_nameless(fd);
	assert_works(r, fd);
	ring_close_fd(r, &fd);
	cr_assert_eq(rmdir(path), 0);
	cr_assert_eq(file_open_named(path, &fd), RING_NOENT);
	cr_assert(!ring_fd_ok(fd));
	ring_close(r);
}

/* Of the file systems that every kernel has, this one lets files be made, but not without a name.
 */
Test(file, a_file_system_without_o_tmpfile)
{
	struct ring *r = open_with(NULL);
	struct ring_fd fd;

	if (unshare(CLONE_NEWNS | CLONE_NEWIPC) != 0)
		cr_assert_eq(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC), 0);
	cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	cr_assert_eq(mount("mqueue", "/mnt", "mqueue", 0, NULL), 0, "%s", strerror(errno));
	cr_assert_eq(open("/mnt", O_TMPFILE | O_RDWR, 0600), -1);
	cr_assert_eq(errno, EOPNOTSUPP);
	cr_assert_eq(ring_file_open(r, "/mnt", &fd), RING_OK);
	cr_assert_eq(names_in("/mnt"), 0);
	assert_nameless(fd);
	ring_close_fd(r, &fd);
	ring_close(r);
}

/* Where a write beyond RLIMIT_FSIZE is done inline, its signal must not end the process. */
Test(file, the_signal_of_a_file_too_large_is_blocked)
{
	struct ring *r = open_with(NULL);
	sigset_t s;

	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &s), 0);
	cr_assert(sigismember(&s, SIGXFSZ));
	cr_assert(sigismember(&s, SIGPIPE));
	ring_close(r);
}

Test(file, a_path_that_is_too_long)
{
	static char path[8192];
	struct ring_fd fd;

	memset(path, 'x', sizeof(path) - 1);
	cr_assert_neq(ring_file_open(NULL, path, &fd), RING_OK);
	cr_assert(!ring_fd_ok(fd));
	cr_assert_eq(file_open_named(path, &fd), RING_INVAL);
	cr_assert(!ring_fd_ok(fd));
}
