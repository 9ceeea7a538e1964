/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A filter stands between the octets of a stream's owner ("plain") and those of its socket
 * ("wire"). The stream keeps doing what it does for everybody: order, one send a turn,
 * back-pressure, closing. The filter only says what wire octets mean and what plain octets become;
 * it knows no socket.
 *
 * What the owner stages is counted in plain octets (stream_backlog(), bytes_out) and counts as left
 * when the wire octets that carry it have left whole: nobody can read a part of them. It becomes
 * wire octets as late as possible, all that a turn produced together and never while a send is in
 * flight, so that a slow peer costs no more than without a filter.
 *
 * Owned by whoever embeds it (tls/), from stream_set_filter() until kind->gone(). All calls on the
 * core's thread; those of the kind are made by the stream only, and must not call the stream but
 * through the functions at the end. to_wire() and finish() may come from inside from_wire(), when
 * the owner answers in the callbacks that it makes.
 */
#ifndef RING_FILTER_H
#define RING_FILTER_H

#include "ring/list.h"
#include "ring/ring.h"

#define FILTER_PIECE_BYTES (16u << 10) /* at most so much for one to_wire() */
/* What one piece may become: a TLS record of it, and what may go before it (an answer to a key
 * update). */
#define FILTER_PIECE_WIRE_BYTES (FILTER_PIECE_BYTES + 1024u)
/* Wire octets that wait to be sent, at most: a handshake's flight, answers to a peer that does not
 * read them, and what the stream makes ahead of a send. More breaks it (RING_NOMEM). */
#define FILTER_WIRE_BYTES_MAX (128u << 10)

struct stream;
struct stream_filter;

struct stream_filter_kind {
	/* Octets from the socket; all of them are to be taken now. From here: filter_deliver() any
	 * number of times, filter_emit(), filter_open() once, filter_over() once. After each of the
	 * first and third the owner may have closed the stream: then nothing more is to be done
	 * (filter_listens()), and what is done nevertheless has no effect. */
	void (*from_wire)(struct stream_filter *f, struct span wire);
	/* 1 to FILTER_PIECE_BYTES octets of the owner, to be handed to filter_emit() at once, as at
	 * most FILTER_PIECE_WIRE_BYTES. Only behind filter_open(). `plain` is valid until it
	 * returns. False: it has failed; nothing is sent any more, the owner gets
	 * on_broken(RING_PROTO). */
	bool (*to_wire)(struct stream_filter *f, struct span plain);
	/* The owner has nothing more to say: last words by filter_emit(). Once, also before
	 * filter_open(). */
	void (*finish)(struct stream_filter *f);
	/* The stream has closed, before on_closed(). Frees the filter. */
	void (*gone)(struct stream_filter *f);
};

struct stream_filter {
	const struct stream_filter_kind
		*kind; /* static; set by the embedder, the rest by the stream */
	struct stream *s;
	struct list wire;	/* of struct seg; owns */
	uint32_t wire_bytes;	/* in them */
	uint32_t sealed;	/* octets of the owner in them */
	uint32_t sending_plain; /* of those, in the send in flight */
	bool open;		/* filter_open() was called */
	bool finished;		/* finish() has returned: nothing is emitted any more */
	bool over;		/* filter_over() was called */
	bool sealing;		/* inside to_wire() */
};

/* ---- what a filter calls ---- */

/* Appends wire octets (copies them). No room left breaks the stream (RING_NOMEM). Nothing once
 * finish() has returned. */
void filter_emit(struct stream_filter *f, struct span wire);
/* The owner's on_bytes(); at least one octet. */
void filter_deliver(struct stream_filter *f, struct span plain);
/* What the owner stages may go from now on; its on_open(). */
void filter_open(struct stream_filter *f);
/* No more input: what still comes is not read. RING_EOF: the peer has said that it ends.
 * RING_PROTO: it does not keep to the rules; what was emitted before leaves if the socket takes it
 * at once, then nothing more does (no on_broken()). The owner's on_end(). */
void filter_over(struct stream_filter *f, enum ring_res why);
/* False: the owner wants no more input (stream closed or finishing, or filter_over()). */
bool filter_listens(const struct stream_filter *f);

#endif
