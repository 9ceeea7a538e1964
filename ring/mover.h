/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Movers carry octets whose number is known (a BDAT chunk) or whose meaning is not ours (TLS passed
 * through) from one stream to another. Five ways behind one interface:
 *   copy         through the receive buffers, like everything else
 *   splice       ring poll, then splice(2) through a pooled pipe: never seen by user space
 *   ring-splice  IORING_OP_SPLICE (a kernel worker thread each time; for comparison)
 *   zero-copy    receive into a registered buffer, SEND_ZC out of it
 *   auto         copy below MOVE_SPLICE_MIN_BYTES (known or already moved), splice above
 * A way that cannot be had now (no pipe, no registered buffer, ENOMEM) is copy, and so is each
 * where one of the streams has a filter.
 *
 * The octets that reach the owner's on_bytes() while a move runs are offered to move_bytes(), and
 * so are those the owner had already (the rest of a span, a stash), before it goes back to the
 * loop; the mover switches `from` off for as long as it reads the descriptor itself. Back-pressure
 * is the owner's while octets come through on_bytes(), the mover's while they do not. Nothing but
 * the move may be staged on `to` while it runs. Thread: the core's.
 */
#ifndef RING_MOVER_H
#define RING_MOVER_H

#include "ring/stream.h"

#define MOVE_SPLICE_MIN_BYTES (256u << 10)
#define MOVE_ASKED_MIN_BYTES \
	(16u << 10)		   /* a way asked for by name is not worth its switch below this */
#define MOVE_TURN_BYTES (1u << 20) /* at most so much for one completion: others wait too */
#define MOVE_ZC_BUFFERS_MAX 4  /* registered buffers of one move: a slow peer keeps no more (U7) */
#define MOVE_OPAQUE UINT64_MAX /* until the source ends */

enum mover {
	MOVER_AUTO,
	MOVER_COPY,
	MOVER_SPLICE,
	MOVER_RING_SPLICE,
	MOVER_ZERO_COPY,
	MOVER_COUNT
};
extern const char *const mover_names[MOVER_COUNT]; /* as in the configuration */

struct move;

struct move_events {
	/* `n` octets more were taken from the source without the owner seeing them (timeouts, byte
	 * counts); those that went through move_bytes() are not reported again. May be NULL. */
	void (*on_progress)(struct move *m, uint64_t n);
	/* Over, exactly once per move_start(), never from inside a move_* call of the owner:
	 * RING_OK (all moved and handed to `to`; `from` reads again if it did before), RING_EOF or
	 * an error of `from`, RING_PIPE or an error of `to` with `at_to` (reading stays off where
	 * the mover had turned it off), RING_CANCELED after move_stop(). Where octets were taken
	 * and could not be handed on, `to` is broken (without on_broken): it never sends again.
	 * on_end() does not wait for zero-copy buffers that the kernel still reads; stream_finish()
	 * of `to` does, stream_close() takes them back by a reset (U7). */
	void (*on_end)(struct move *m, enum ring_res why, bool at_to);
};

struct move {
	const struct move_events *ev;
	struct stream *from, *to;
	enum mover way; /* asked for */
	enum mover now; /* MOVER_COPY until the switch, MOVER_COUNT when over */
	uint64_t left;	/* octets not yet taken from the source; MOVE_OPAQUE = no count */
	uint64_t moved;
	struct ring_pipe *pipe;
	struct zc_hold *zc;  /* zero-copy: the buffer being filled and sent */
	struct list zc_gone; /* handed to the kernel whole, not back yet */
	unsigned zc_out;     /* buffers in use, both kinds */
	struct ring_op in_op, out_op;
	struct deferred later; /* first look, and the report of the end */
	uint8_t phase;
	bool stopping, ended, at_to;
	bool held;	  /* both streams are pinned: on_closed() waits */
	bool took;	  /* the input of `from` is the mover's */
	bool gave_up;	  /* the way could not be had: copy to the end */
	bool poll_failed; /* the last poll said error or hang-up */
	uint8_t why;
};

/* `left` > 0. Both streams stay open until on_end(): to close one earlier, move_stop() first. */
void move_start(struct move *m, const struct move_events *ev, enum mover way, struct stream *from,
	struct stream *to, uint64_t left);
/* NULL: there is none. */
static inline bool move_running(const struct move *m)
{
	return m != NULL && m->ev != NULL && !m->ended;
}
/* Octets were taken that `to` has not: it is `to` that is waited for. */
bool move_holds(const struct move *m);
/* All octets were taken, and the kernel may have passed on the last of them without having said so
 * yet: `to`'s peer may have read and answered them. */
bool move_maybe_done(const struct move *m);
/* Octets that came through `from`'s on_bytes(): passes on those that belong to the move (at most
 * `left`) and returns their number. When that was the last one the move is over, on_end() is not
 * called. 0 while the move still runs: it has all its octets and is being ended; the rest waits for
 * on_end(). */
size_t move_bytes(struct move *m, struct span data, int32_t buf);
/* The owner forwards these stream events of a running move. */
void move_from_quiet(struct move *m);			/* from's on_quiet */
void move_to_drained(struct move *m);			/* to's on_drained */
void move_from_end(struct move *m, enum ring_res why);	/* from's on_end */
void move_to_broken(struct move *m, enum ring_res why); /* to's on_broken */
/* Takes the running operations back; on_end(RING_CANCELED) follows, at once if nothing was armed.
 */
void move_stop(struct move *m);

#endif
