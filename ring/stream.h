/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A stream is one connected socket and everything that must be true about it: octets leave in
 * order, one send in flight, everything a turn produced in one send; receiving stops and starts;
 * closing is cancel, count every completion, close (U1, U8, U9). Built on ring.h only, so it runs
 * unchanged on the simulated kernel.
 *
 * A stream is embedded in its owner (session, link, ...), which must stay in place until
 * on_closed(). All calls and callbacks on the core's thread. Callbacks are never made from inside a
 * stream_* call made by the owner, except on_bytes/on_end/... during ring_turn() and
 * streams_flush(): a failure found while staging is reported from streams_flush().
 */
#ifndef RING_STREAM_H
#define RING_STREAM_H

#include "ring/filter.h"
#include "ring/list.h"
#include "ring/ring.h"
#include "ring/slab.h"

#define STREAM_HIGH_BYTES (64u << 10) /* stop feeding a stream that has this much unsent ... */
#define STREAM_LOW_BYTES (16u << 10)  /* ... until it is down to this: then on_drained() */
/* Of one multishot receive. Large while there is room: each piece costs the sender a window update
 * and a wake-up, so four times as much at once halves the CPU time of a large body. Room is what is
 * left of the cells when all that armed receives may bring has found its place in them. */
#define STREAM_RECV_CAP_BYTES (256u << 10)
#define STREAM_RECV_SCARCE_BYTES (16u << 10) /* when buffers or cells run short */
#define STREAM_HOT_BYTES \
	(8u << 10) /* staged this much: send at once while the octets are hot in cache */

struct stream;

/* A call to be made from streams_flush(): what a call of the owner found out and may not report
 * from inside itself. Embedded in its user; linked = to be called. */
struct deferred {
	struct list node;
	void (*run)(struct deferred *d); /* already unlinked; may free what it is embedded in */
};

/* After stream_finish() and stream_close() only on_closed() comes. */
struct stream_events {
	/* The dial ended. Not RING_OK: the owner closes. */
	void (*on_connect)(struct stream *s, enum ring_res res);
	/* Use or copy all of it now; with buf >= 0 stream_pass() may lease it instead of copying.
	 */
	void (*on_bytes)(struct stream *s, struct span data, int32_t buf);
	/* Input is over: RING_EOF or the error. Comes once; not after stream_close(). */
	void (*on_end)(struct stream *s, enum ring_res why);
	/* stream_read(false) has taken full effect: no receive is armed. Once for each time reading
	 * went from on to off, unless it was turned on again meanwhile. May be NULL. */
	void (*on_quiet)(struct stream *s);
	/* The backlog was above STREAM_HIGH_BYTES or the socket full, and is now at most
	 * STREAM_LOW_BYTES; also when all is sent that a stream_tell_flushed() asked about. */
	void (*on_drained)(struct stream *s);
	/* Sending failed: this direction never sends again, what was staged is dropped (U9). Comes
	 * once. */
	void (*on_broken)(struct stream *s, enum ring_res why);
	/* The filter is ready: from now on what is staged leaves through it. May be NULL where no
	 * filter is ever set. */
	void (*on_open)(struct stream *s);
	/* Descriptor closed, nothing armed, no lease held: the owner may free the memory. */
	void (*on_closed)(struct stream *s);
};

#define STREAMS_ZC_HOLD_BYTES 128
#define STREAMS_ZC_HOLDS_MAX 1024

/* What all streams of one core share. */
struct streams {
	struct ring *ring;
	struct slab segs;     /* staged pieces: a lease, or up to a few hundred copied octets */
	struct slab cells;    /* 4 KiB each, for larger copies */
	uint32_t promised;    /* of them, to what armed receives may bring */
	struct slab zc_holds; /* of movers: registered buffers with what the kernel does to them */
	struct list parked;   /* receives waiting for a buffer, oldest first (U4) */
	struct list dirty;    /* have staged octets, to be sent at the end of the turn */
	struct list ending;   /* have something to report at the end of the turn */
	struct list later;    /* of struct deferred: others' calls at the end of the turn */
	uint8_t *piece;	      /* FILTER_PIECE_BYTES, to gather what a filter is given; owns */
	bool flushing;
	bool ring_sends; /* give small sends to the ring instead of send(2) (bench switch) */
};

struct stream {
	struct streams *core;		/* borrowed */
	const struct stream_events *ev; /* static */
	struct stream_filter *filter;	/* borrowed; NULL: what is staged is what leaves */
	struct ring_fd fd;
	struct ring_op recv_op, send_op, dial_op;
	const struct ring_addr *peer; /* borrowed while dialling */
	struct list out;	      /* of struct seg; owns */
	uint32_t out_bytes;	      /* staged and not yet taken by the kernel */
	uint32_t sending_bytes;	      /* of those, in the one ring send in flight */
	uint16_t pins;		      /* operations of others (movers) on this descriptor */
	bool want_read : 1;
	bool cancelling : 1;
	bool dozing : 1;  /* what is to be armed, when the receive has ended, is a poll */
	bool bulk : 1;	  /* the last receive ended because it had brought all it might */
	bool ended : 1;	  /* on_end was (or will not be) given */
	bool blocked : 1; /* was above high, or the socket was full */
	bool broken : 1;
	bool finishing : 1; /* close once everything is sent */
	bool closing : 1;
	bool closed : 1;
	bool receiving : 1;  /* inside the last completion of a receive: not the time to arm one */
	bool quiet_owed : 1; /* on_quiet is to come */
	bool want_flushed : 1; /* on_drained when stream_flushed() */
	bool taken : 1;	       /* a mover has the input: stream_read() only leaves a note */
	bool read_later : 1;   /* that note */
	uint8_t broken_why;    /* enum ring_res, until on_broken was given */
	uint16_t promised;     /* cells, to the receive that is armed */
	uint64_t bytes_in, bytes_out;
	uint64_t waited_us, wait_began_us; /* for input; the second 0: not now */
	struct list parked_node, dirty_node, ending_node;
	struct list lent; /* others' buffers that the kernel still sends from, see stream_lend() */
};

/* They bound what all streams of the core can have staged. A cell in use takes a seg as well, so
 * there are no fewer of these. */
bool streams_init(
	struct streams *ss, struct ring *r, uint32_t segs_max, uint32_t cells_max) MUST_USE;
/* Every stream has closed. Waits for registered buffers that the kernel still reads: not long,
 * their sockets were reset. */
void streams_fini(struct streams *ss);
/* End of a turn: sends what was staged, re-arms parked receives, reports failures and closes. To be
 * called after every ring_turn() and before the next: nothing is left behind for a later turn. */
void streams_flush(struct streams *ss);
static inline void deferred_init(struct deferred *d, void (*run)(struct deferred *d))
{
	list_init(&d->node);
	d->run = run;
}
void streams_defer(
	struct streams *ss, struct deferred *d); /* idempotent; list_remove() undoes it */

/* Takes over a connected descriptor. Reading is off until stream_read(). */
void stream_adopt(
	struct stream *s, struct streams *ss, const struct stream_events *ev, struct ring_fd fd);
/* Starts a connect; on_connect() follows later. An immediate failure is returned and the stream is
 * closed already (no callback). `peer` must stay in place until on_connect(). */
enum ring_res stream_dial(struct stream *s, struct streams *ss, const struct stream_events *ev,
	const struct ring_addr *peer, const struct ring_addr *src) MUST_USE;

/* Receiving on or off. Off takes effect when on_quiet() comes; on_bytes() may come until then: at
 * most twice STREAM_RECV_CAP_BYTES where the kernel caps receives, else what is already completed.
 */
void stream_read(struct stream *s, bool on);
/* A hint: nothing is likely to come soon. If the stream reads, it waits with a poll from now on,
 * for which the kernel keeps 256 octets and not 864; the first octets end that, a moment later. */
void stream_doze(struct stream *s);
static inline bool stream_quiet(const struct stream *s)
{
	return !s->want_read && !ring_op_armed(&s->recv_op) && !list_linked(&s->parked_node);
}

/* Stage octets. put copies; pass leases receive buffer `buf` while the pool is healthy, else copies
 * (buf < 0 always copies). On a broken, finishing or closing stream they do nothing. No room left
 * in the slabs breaks the stream (RING_NOMEM): octets are never left out. */
void stream_put(struct stream *s, struct span data);
/* The same without a copy, for octets that stay as and where they are until on_closed(). */
void stream_put_lasting(struct stream *s, struct span data);
void stream_pass(struct stream *s, struct span data, int32_t buf);

static inline uint32_t stream_backlog(const struct stream *s)
{
	return s->out_bytes;
}

/* How long octets of the peer have been waited for in all, in microseconds: a receive was armed and
 * nothing came. Not the time in which they were not wanted, or no buffer was left for them. */
uint64_t stream_waited_us(const struct stream *s);
/* The same of somebody else's wait on the descriptor (a mover's). */
void stream_wait_begin(struct stream *s);
void stream_wait_end(struct stream *s);

/* Octets that the kernel may have taken: those it said, and those of a send in flight, of which it
 * says nothing until all are taken. The peer may have read and answered them by now. */
static inline uint64_t stream_maybe_out(const struct stream *s)
{
	return s->bytes_out + (s->filter ? s->filter->sending_plain : s->sending_bytes);
}

/* The kernel has taken everything that was staged. */
static inline bool stream_flushed(const struct stream *s)
{
	return s->out_bytes == 0 && (!s->filter || s->filter->wire_bytes == 0);
}
/* on_drained() when that is so (not for a stream that is so already). */
static inline void stream_tell_flushed(struct stream *s)
{
	s->want_flushed = true;
}

/* From now on `f` stands between. What was staged before leaves as it is; what is received from now
 * on is the filter's, so the caller has made sure that nothing came too early. Once per stream,
 * while nobody has taken its input. Movers copy where there is a filter. */
void stream_set_filter(struct stream *s, struct stream_filter *f);
/* For octets that on_bytes() brought before, and that turn out to be the filter's. */
void stream_feed_filter(struct stream *s, struct span wire);

/* The half-close: says with the filter's last words and then with a FIN that no more comes. True:
 * done; else call again at on_drained(). Nothing may be staged afterwards. */
bool stream_shut(struct stream *s);

/* Others' operations on the descriptor: it is not closed while pins are out. */
void stream_pin(struct stream *s);
void stream_unpin(struct stream *s);

/* Octets that a counted zero-copy send has left in a buffer the kernel still reads (U7); `n` is the
 * buffer's. stream_finish() waits for them like for what is staged. stream_close() does not: it
 * drops them as well, by a reset, and `n` is unlinked when the stream is gone. */
void stream_lend(struct stream *s, struct list *n);
/* The buffer is back. */
void stream_unlend(struct stream *s, struct list *n);

/* For movers. From take to give_back the caller alone reads the descriptor, once the stream is
 * quiet (on_quiet, or at once). What the owner wants of stream_read() meanwhile is noted, and is
 * done at give_back; until it says something that is what held before. */
void stream_take(struct stream *s);
void stream_give_back(struct stream *s);
/* The caller's own send on the descriptor failed: as if one of the stream's had, without on_broken.
 */
void stream_mark_broken(struct stream *s);

/* Stop reading, close when everything staged is sent, and the filter's last words behind it (or
 * broken: on_closed() may look at s->broken). What waits for a filter that is not open is dropped:
 * it would wait for ever. */
void stream_finish(struct stream *s);
void stream_close(
	struct stream *s); /* drop what is staged, close as soon as nothing is armed; idempotent */
void stream_reset(struct stream *s); /* the same, with a reset on the wire */

#endif
