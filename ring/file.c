/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Files: octets that do not fit into memory. A file never has a name that anybody else could open,
 * and goes when its descriptor does, however the process ends.
 *
 * Kernel behaviour relied on: O_TMPFILE makes a file without a name, O_EXCL with it forbids giving
 * it one. A buffered operation is done inline where the file system can do it without waiting, else
 * by a worker thread, writes one at a time for each file (6.18: ext4 reads inline what is cached;
 * its writes, and both on tmpfs, take a worker). A write beyond RLIMIT_FSIZE that is done inline
 * raises SIGXFSZ, which ring_open() blocks.
 *
 * Failure modes: no file can be made (returned); disk full, quota, error of the device (the
 * operation's result). Making a file is the one call here that may wait for the device.
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

static int open_raw(const char *dir, int flags)
{
	int fd;

	do
		fd = (int)syscall(SYS_openat, AT_FDCWD, dir, flags, 0600);
	while (fd < 0 && errno == EINTR);
	return fd;
}

enum ring_res file_open_named(const char *dir, struct ring_fd *out)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/ringpost-XXXXXX", dir), err;

	*out = RING_FD_NONE;
	if (n < 0 || (size_t)n >= sizeof(path))
		return RING_INVAL;
	out->v = mkostemp(path, O_CLOEXEC | O_LARGEFILE);
	if (!ring_fd_ok(*out))
		return ring_res_of(errno);
	if (unlink(path) == 0)
		return RING_OK;
	err = errno;
	fd_close_raw(out->v);
	*out = RING_FD_NONE;
	return ring_res_of(err);
}

enum ring_res ring_file_open(struct ring *r, const char *dir, struct ring_fd *out)
{
	out->v = open_raw(dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC | O_LARGEFILE);
	if (ring_fd_ok(*out))
		return RING_OK;
	if (errno == EOPNOTSUPP || errno == EISDIR)
		return file_open_named(dir, out);
	*out = RING_FD_NONE;
	return ring_res_of(errno);
}

static void arm(struct ring *r, struct ring_op *op, enum op_kind kind, uint8_t opcode,
	struct ring_fd fd, const void *p, uint32_t n, uint64_t at)
{
	struct io_uring_sqe *s;

	ASSERT(n > 0 && n <= INT32_MAX);
	s = ring_arm(r, op, kind, opcode, fd.v, NULL);
	s->addr = (uintptr_t)p;
	s->len = n;
	s->off = at;
}

void ring_file_write(struct ring *r, struct ring_op *op, struct ring_fd fd, const void *p,
	uint32_t n, uint64_t at)
{
	arm(r, op, KIND_FILE_WRITE, IORING_OP_WRITE, fd, p, n, at);
	STAT(r, file_writes, 1);
}

void ring_file_read(
	struct ring *r, struct ring_op *op, struct ring_fd fd, void *p, uint32_t n, uint64_t at)
{
	arm(r, op, KIND_FILE_READ, IORING_OP_READ, fd, p, n, at);
	STAT(r, file_reads, 1);
}

/* A write that takes nothing would be repeated for ever. */
void finish_file_write(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->res == 0)
		d->res = RING_IO;
}

void finish_file_read(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->res == 0)
		d->res = RING_EOF;
}
