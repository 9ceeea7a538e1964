/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A spool keeps octets until they are wanted: in memory up to a size, what comes then in a file
 * without a name. Written once, from front to back; read as often as needed, from anywhere. Knows
 * no SMTP. Built on ring.h only, so it runs unchanged on the simulated kernel; nothing here blocks
 * but the making of the file.
 *
 * The first `spill_bytes` of a spool stay in memory for its life: the front can always be looked
 * at. What is behind them goes through a few blocks of memory into the file and back; the last
 * block, as long as nothing comes behind it, stays in memory, too, so a spool needs no word that it
 * is complete.
 *
 * Ownership: a spool is the owner's from spool_new() to spool_drop(); it takes care of its own end
 * (operations in flight keep it until they are counted). All calls and callbacks on the core's
 * thread; callbacks never from inside a call of the owner.
 *
 * Failure modes: the memory or the disk that all spools of the core may use is full (SPOOL_FULL);
 * the file cannot be made, written or read (SPOOL_FAILED, `why`). Either stays: the spool takes no
 * more. What a full one has can be read; of one that has failed only the front can be copied.
 */
#ifndef RING_SPOOL_H
#define RING_SPOOL_H

#include "ring/ring.h"
#include "ring/slab.h"
#include "ring/stream.h"

#define SPOOL_BLOCK_BYTES (16u << 10)
#define SPOOL_WRITES_MAX 8 /* blocks of one spool on their way to the file: then spool_full() */
#define SPOOL_OPS_MAX (SPOOL_WRITES_MAX + 2) /* operations of one spool armed at once */

struct spools_conf {
	uint64_t memory_bytes; /* blocks of all spools of the core, at least one */
	uint64_t disk_bytes;   /* all files of the core, counted in whole blocks */
	uint64_t spill_bytes; /* of one spool in memory; a multiple of the block is made of it, >= 1
			       */
	const char *directory; /* borrowed */
	uint32_t spools_max;
};

struct spools {
	struct streams *streams; /* for its `later` list and its ring */
	struct spools_conf conf;
	struct slab spools, blocks;
	uint64_t disk_used; /* of files that are open: a dropped spool's until its last operation */
	uint64_t files;	    /* made so far */
};

bool spools_init(
	struct spools *ss, const struct spools_conf *conf, struct streams *streams) MUST_USE;
void spools_fini(struct spools *ss); /* spools_idle() */
/* No spool is left, dropped ones included: nothing is armed. */
bool spools_idle(const struct spools *ss);

enum spool_res { SPOOL_OK, SPOOL_FULL, SPOOL_FAILED };

struct spool;
struct spool_events {
	/* spool_full() was true, and is no longer; or it has failed meanwhile. */
	void (*on_room)(void *who);
	/* What spool_read() waited for is there; or it has failed meanwhile. */
	void (*on_ready)(void *who);
};

/* NULL: no spool or no block is left. */
struct spool *spool_new(struct spools *ss, const struct spool_events *ev, void *who);
/* Its content is gone; no callback comes any more. */
void spool_drop(struct spool *sp);

/* Appends a copy of all of `data`, or nothing of it and says why not. */
enum spool_res spool_add(struct spool *sp, struct span data) MUST_USE;
/* As much waits to be written as should: no more until on_room(), true until then. spool_add()
 * still takes what was on its way (the budget permitting). Not SPOOL_FULL: that is for good. */
bool spool_full(const struct spool *sp);
uint64_t spool_bytes(const struct spool *sp);
bool spool_spilled(const struct spool *sp); /* more than stays in memory: for the file, or in it */
enum spool_res spool_state(const struct spool *sp);
enum ring_res spool_why(const struct spool *sp); /* of SPOOL_FAILED */

/* *out: octets from `at` on, at least one, as many as lie in a row, valid until the next call about
 * this spool or the caller's return to the ring: use or copy them at once. False: at the end, or
 * failed, or they come from the file: spool_reading() tells, and on_ready() comes. One place is
 * read at a time: a read from elsewhere takes the place of one that waits. */
bool spool_read(struct spool *sp, uint64_t at, struct span *out);
bool spool_reading(const struct spool *sp);

/* Copies octets [at, at + n) that lie in memory for good (below spill_bytes) to `to`. */
void spool_copy_front(const struct spool *sp, uint64_t at, size_t n, uint8_t *to);
/* How many octets at the front that is. */
uint64_t spool_front(const struct spool *sp);

#endif
