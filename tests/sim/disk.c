/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Files of the simulated kernel: octets in memory, on a disk of bounded size.
 *
 * Octets that are to be written are summed up when they are lent and at every step until they come
 * back: whoever changes them in between is stopped. What a read writes into is overwritten when it
 * is lent, and poisoned until it comes back. When an operation takes effect is chance; on a slow
 * disk much later (FAULT_SLOW_DISK).
 *
 * Failure modes: the faults of faults.def, and a full disk. It asserts what ring.h asks for: a
 * write in flight shares no octet with another operation.
 */
#include "tests/sim/kernel_int.h"

#define DISK_BYTES (64u << 20)

static struct disk_file *file_of(const struct row *o)
{
	return CONTAINER_OF(o->file, struct disk_file, file);
}

static uint64_t disk_room(const struct sim_kernel *k)
{
	uint64_t all = k->conf.disk_bytes ? k->conf.disk_bytes : DISK_BYTES;

	return all - k->disk_used;
}

/* ---- opening and closing ---- */

static enum ring_res open_fault(struct sim_kernel *k)
{
	static const uint8_t why[] = {
		RING_MFILE, RING_NFILE, RING_ACCES, RING_ROFS, RING_NOSPC, RING_NOENT, RING_NOMEM};

	return why[tape_pick(k->t, ARRAY_LEN(why))];
}

enum ring_res ring_file_open(struct ring *r, const char *dir, struct ring_fd *out)
{
	struct sim_kernel *k = r->k;
	struct disk_file *f;

	*out = RING_FD_NONE;
	if (k->conf.directory && strcmp(dir, k->conf.directory) != 0)
		return RING_NOENT;
	if (sim_strikes(k, FAULT_FILE_FAILS, REC_NO_SOCK))
		return open_fault(k);
	f = calloc(1, sizeof(*f));
	ASSERT(f);
	f->file.rec_sock = REC_NO_SOCK;
	f->index = k->disk_n;
	*SIM_PUSH(k, disk) = f;
	*out = fd_new(k, FD_FILE, f->index);
	return RING_OK;
}

void disk_close(struct sim_kernel *k, struct ring_fd fd)
{
	struct disk_file *f = disk_of_fd(k, fd);

	ASSERT(f->file.armed == 0); /* U1 */
	k->disk_used -= f->n;
	k->disk[f->index] = NULL;
	fd_give(k, fd.v);
	free(f->p);
	free(f);
}

uint32_t sim_open_files(const struct sim_kernel *k)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < k->disk_n; i++)
		n += k->disk[i] != NULL;
	return n;
}

/* ---- arming ---- */

static bool is_write(const struct row *o)
{
	return o->kind == OP_FILE_WRITE;
}

static void check_overlap(const struct sim_kernel *k, const struct row *o)
{
	for (uint32_t i = 1; i < k->row_n; i++) {
		const struct row *other = &k->row[i];

		if (other == o || other->op == NULL || other->file != o->file)
			continue;
		ASSERT(!(is_write(o) || is_write(other)) || o->at + o->n <= other->at ||
			other->at + other->n <= o->at);
	}
}

static struct row *arm(struct ring *r, struct ring_op *op, enum op_kind kind, struct ring_fd fd,
	void *p, uint32_t n, uint64_t at)
{
	struct sim_kernel *k = r->k;
	struct disk_file *f = disk_of_fd(k, fd);
	struct row *o = op_arm(r, op, kind, &f->file, NULL);

	ASSERT(n > 0 && n <= INT32_MAX);
	o->with = p;
	o->n = n;
	o->at = at;
	check_overlap(k, o);
	if (sim_strikes(k, FAULT_SLOW_DISK, REC_NO_SOCK)) {
		o->due_us = k->now_us + sim_delay(k);
		sim_due(k, o->due_us);
	}
	return o;
}

static bool due(const struct sim_kernel *k, const struct row *o)
{
	return o->due_us <= k->now_us;
}

/* What a disk may say instead of doing it. */
static enum ring_res disk_fault(struct sim_kernel *k, const struct row *o, bool taken_back)
{
	if (taken_back)
		return RING_CANCELED;
	return sim_strikes(k, FAULT_DISK_FAILS, REC_NO_SOCK) ? RING_IO : RING_OK;
}

/* ---- write ---- */

void ring_file_write(struct ring *r, struct ring_op *op, struct ring_fd fd, const void *p,
	uint32_t n, uint64_t at)
{
	struct row *o = arm(r, op, OP_FILE_WRITE, fd, (void *)(uintptr_t)p, n, at);

	o->sum = sim_sum(p, n);
	r->stats.file_writes++;
}

bool file_write_ready(struct sim_kernel *k, struct row *o)
{
	return due(k, o);
}

/* Makes the file as long as that, with zeros, as far as the disk has room. */
static void grow(struct sim_kernel *k, struct disk_file *f, uint64_t n)
{
	n = MIN_OF(n, f->n + disk_room(k));
	if (n <= f->n)
		return;
	if (n > f->cap) {
		f->cap = MAX_OF(2 * f->cap, n);
		f->p = realloc(f->p, f->cap);
		ASSERT(f->p);
	}
	memset(f->p + f->n, 0, n - f->n);
	k->disk_used += n - f->n;
	f->n = n;
}

void file_write_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	static const uint8_t full[] = {RING_NOSPC, RING_DQUOT};
	enum ring_res res = disk_fault(k, o, taken_back);
	struct disk_file *f = file_of(o);
	uint32_t n;

	ASSERT(sim_sum(o->with, o->n) == o->sum); /* somebody wrote into octets that are lent */
	if (res == RING_OK && sim_strikes(k, FAULT_DISK_FULL, REC_NO_SOCK))
		res = full[tape_pick(k->t, ARRAY_LEN(full))];
	if (res != RING_OK) {
		op_post_res(k, o, res, 0);
		return;
	}
	n = sim_short(k, FAULT_SHORT_WRITE, REC_NO_SOCK, o->n);
	grow(k, f, o->at + n);
	if (f->n <= o->at) {
		op_post_res(k, o, RING_NOSPC, 0);
		return;
	}
	n = (uint32_t)MIN_OF((uint64_t)n, f->n - o->at);
	memcpy(f->p + o->at, o->with, n);
	op_post_res(k, o, RING_OK, n);
}

void file_write_finish(
	struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	ASSERT(sim_sum(o->with, o->n) == o->sum);
}

/* ---- read ---- */

void ring_file_read(
	struct ring *r, struct ring_op *op, struct ring_fd fd, void *p, uint32_t n, uint64_t at)
{
	arm(r, op, OP_FILE_READ, fd, p, n, at);
	memset(p, SIM_OVERWRITE, n);
	POISON(p, n);
	r->stats.file_reads++;
}

bool file_read_ready(struct sim_kernel *k, struct row *o)
{
	return due(k, o);
}

void file_read_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	enum ring_res res = disk_fault(k, o, taken_back);
	struct disk_file *f = file_of(o);
	uint32_t n;

	if (res == RING_OK && o->at >= f->n)
		res = RING_EOF;
	if (res != RING_OK) {
		op_post_res(k, o, res, 0);
		return;
	}
	n = (uint32_t)MIN_OF((uint64_t)o->n, f->n - o->at);
	n = sim_short(k, FAULT_SHORT_READ, REC_NO_SOCK, n);
	UNPOISON(o->with, o->n);
	memcpy(o->with, f->p + o->at, n);
	POISON(o->with, o->n);
	op_post_res(k, o, RING_OK, n);
}

void file_read_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	UNPOISON(o->with, o->n);
}
