/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The session machine, shared by the files of this room.
 *
 *	session.c   life: accept, end, destructor, the events of both sides' streams
 *	settle.c    taking input; what follows from the state: reading, timers, endings
 *	command.c   client -> upstream: one handler per verb
 *	answer.c    upstream -> client: one handler per kind of slot
 *	queue.c     commands in flight paired with their replies, in order
 *	body.c      message octets: DATA, BDAT, and the opaque phase behind STARTTLS
 *	txn.c       transactions and their log records
 *
 * Client input goes through phases:
 *
 *	GREETING -> COMMAND -> BODY  -> COMMAND      DATA answered 354 ... the end of data
 *	                    -> CHUNK -> COMMAND      BDAT n ... n octets
 *	                    -> AUTH  -> COMMAND      334 ... one line
 *	                    -> OPAQUE                STARTTLS answered 220
 *	any -> ENDING                                one way out: sess_end()
 *
 * In COMMAND the next line may have to wait: behind a command whose reply decides what follows, for
 * a link, for room. What waits is in `inq` (copied: receive buffers are shared), an unfinished line
 * in `line`. Every event of either side ends in sess_step(), which takes as much input as may be
 * taken and then derives from the state whether to read, which timer runs, and whether it is over.
 */
#ifndef SESSION_INT_H
#define SESSION_INT_H

#include "engine/hook/hook.h"
#include "engine/session/session.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"
#include "engine/smtp/local.h"
#include "engine/smtp/scan.h"
#include "ring/mover.h"

#define SCRATCH_BYTES (64u << 10)
#define QUEUE_SLOTS 256	    /* indexes are uint8_t */
#define HELLO_BYTES_MAX 264 /* a longer one is passed, but its link cannot be replaced */
#define TXN_TEXT_MAX 192

enum reply_id {
#define X(id, code, enhanced, text, word) id,
#include "engine/session/replies.def"
#undef X
	REPLY_COUNT
};
extern const struct local_reply sess_replies[REPLY_COUNT];

enum sess_end {
#define X(id, word, reply, text) id,
#include "engine/session/ends.def"
#undef X
	END_COUNT
};

enum sess_phase {
	PHASE_GREETING,
	PHASE_COMMAND,
	PHASE_BODY,
	PHASE_CHUNK,
	PHASE_AUTH,
	PHASE_OPAQUE,
	PHASE_ENDING,
};

/* What becomes of the message octets being received. */
enum body_fate { BODY_PASS, BODY_SWALLOW };

enum slot_kind {
	SLOT_COMMAND,  /* any command without a rule of its own below */
	SLOT_STATEFUL, /* a command after whose success the link cannot be replaced */
	SLOT_HELLO,    /* EHLO, HELO */
	SLOT_MAIL,
	SLOT_RCPT,
	SLOT_DATA,
	SLOT_CHUNK,
	SLOT_FINAL, /* the final dot, or BDAT LAST */
	SLOT_AUTH,
	SLOT_STARTTLS,
	SLOT_XCLIENT,
	SLOT_QUIT,
	SLOT_DISCARD, /* our own command: its reply is for nobody */
	SLOT_KIND_COUNT
};

struct txn;

/* One command and the one reply it is due. */
struct slot {
	const struct local_reply *local; /* ours; NULL = the upstream's */
	struct txn *txn;		 /* counted; may be NULL */
	uint64_t out_mark; /* link bytes_out that means "all of it was taken by the kernel" */
	uint8_t kind;	   /* enum slot_kind */
	bool sync;	   /* input behind it waits */
};

/* What became of a transaction. X(id, log word) */
#define TXN_OUTCOMES(X)                                                                \
	X(TXN_OPEN, "aborted")                                                         \
	X(TXN_ACCEPTED, "accepted")                                                    \
	X(TXN_CLIENT_GONE, "client-gone") /* accepted, and the client does not know */ \
	X(TXN_REJECTED, "rejected")                                                    \
	X(TXN_ABORTED, "aborted")                                                      \
	X(TXN_IN_DOUBT, "in-doubt")

enum txn_outcome {
#define X(id, word) id,
	TXN_OUTCOMES(X)
#undef X
};

/* A mail transaction: MAIL ... final reply. Counted by the slots that name it and by session.txn.
 */
struct txn {
	struct session *s;
	uint64_t id;
	uint16_t refs;
	uint8_t outcome; /* enum txn_outcome */
	bool settled;	 /* the outcome stands; else a later recipient or reply may change it */
	bool nested;	 /* a second MAIL: it becomes the session's when the upstream takes it */
	bool mail_ok;	 /* the upstream took MAIL */
	bool chunked;	 /* BDAT was used */
	bool body_begun;
	bool early_bare_lf;
	const struct local_reply *refused; /* set: RCPT, DATA, BDAT of it get this */
	uint32_t rcpt_pending, rcpt_ok, rcpt_failed, rcpt_local;
	uint64_t bytes;
	struct scan scan;
	struct stash early; /* the upstream's reply that came in mid-body */
	uint64_t began_us, body_us, dot_us;
	/* Where the body, or the running chunk of it, began: octets, and stream_waited_us(). */
	uint64_t part_bytes, part_waited_us;
	uint16_t code;			 /* of the reply that decided */
	const char *stage, *by, *reason; /* static words */
	const struct conf_server *server;
	uint8_t from_n, to_n, text_n, enhanced_n;
	uint16_t asked_n;
	/* The record names the first recipient that was taken (else the first refused): until there
	 * is one, those asked about wait here as length and octets, oldest first. What does not fit
	 * is not named. */
	uint8_t asked[512];
	uint8_t from[255], to[255], text[TXN_TEXT_MAX], enhanced[12];
};

struct session {
	struct sess_core *core;
	const struct conf_listener *lis;
	struct list node; /* in core->all */
	struct stream cli;
	struct link *link; /* borrowed; NULL when there is none */
	struct timer timer;
	uint64_t id;
	uint64_t began_us;
	struct ring_addr client;

	/* client input */
	struct inq inq;	   /* waits */
	struct stash line; /* an unfinished command line */
	size_t line_seen;
	struct move up, down;		      /* BDAT octets; opaque octets each way */
	const struct local_reply *body_reply; /* what the end of a swallowed DATA is answered */
	uint64_t chunk_left;		      /* BDAT octets still to swallow */
	uint64_t opaque_mark;		      /* cli.bytes_out that means "the 220 has left" */
	struct txn *txn;		      /* being built, or receiving its body; counted */
	struct hook_seat seat;

	/* replies */
	struct slot *queue; /* leased while not empty */
	uint8_t q_head;
	uint16_t q_count;
	uint16_t q_upstream; /* of those, due from the upstream */

	uint64_t client_since_ms; /* the client's turn began, or its last progress */
	uint64_t penalty_until_ms;
	uint64_t seen_out;     /* octets taken by both sides, at the last look */
	struct ehlo_caps caps; /* as told to the client; what a replacement link must offer */
	const struct conf_server *server; /* last used */

	const char *cause;     /* why no server could be reached; static */
	const char *lost_word; /* why the last link that was lost or dropped went; static */
	uint32_t commands, messages, errors, errors_total, junk;
	uint8_t phase;	       /* enum sess_phase */
	uint8_t fate;	       /* enum body_fate */
	uint8_t end;	       /* enum sess_end; END_NONE while it lives */
	uint8_t end_when_idle; /* enum sess_end: due when no reply is */
	bool hello_ok : 1;     /* EHLO or HELO was accepted: repeat it on a new link */
	bool bound : 1;	       /* AUTH, XCLIENT or the like: the link cannot be replaced */
	bool chunk_last : 1;   /* the BDAT being received is the LAST one */
	bool hello_ehlo : 1;   /* `hello` is an EHLO */
	bool asked_ehlo : 1;   /* so is the hello whose reply is due */
	bool discard_line : 1; /* rest of a line that was too long */
	bool lingering : 1;    /* ending: the last words are out, the client may still be talking */
	bool line_waits : 1;   /* `line` holds a complete line that said LATER */
	bool client_eof : 1;
	bool client_gone : 1; /* reset, or cannot be written to: nobody reads our replies */
	bool client_open : 1; /* its stream is not closed yet */
	bool trusted : 1;
	bool connecting : 1;	   /* the hooks have not said yet whether the client may come in */
	bool up_open : 1;	   /* opaque: the 220 has left, what the client says may pass */
	uint8_t end_held;	   /* octets of the end of the data that wait for a verdict */
	bool up_ended, down_ended; /* opaque: that direction is over, all its octets staged */
	bool up_told, down_told;   /* and the other side was told */
	char auth_mech[20];
	uint16_t auth_code;
	uint16_t asked; /* 1 << enum hook_point: the hooks have passed the line that waits */
	/* A hello behind one that was accepted, until it is accepted too: a server that refuses it
	 * stays as it was (RFC 5321 4.1.4). */
	struct stash hello_asked;
	uint16_t hello_n;
	uint8_t hello[HELLO_BYTES_MAX]; /* "EHLO name\r\n" as it was said */
};

/* The name in the hello that was said; empty before. */
static inline struct span sess_helo(const struct session *s)
{
	return s->hello_n > 7 ? span_of(s->hello + 5, s->hello_n - 7u) : SPAN_NONE;
}

static inline uint64_t sess_now_ms(const struct session *s)
{
	return ring_now_us(s->core->ring) / 1000;
}

extern const struct sess_end_row {
	const char *word;
	enum reply_id reply;
} sess_ends[END_COUNT];

/* ---- session.c ---- */
/* The one way out. The reply of the row (ends.def) is given unless the client is gone. Idempotent.
 */
void sess_end(struct session *s, enum sess_end why);
/* Nobody is there to answer. A message that has all left is seen through to its reply. */
void sess_client_gone(struct session *s, enum sess_end why);
void sess_free(struct session *s);
/* A line of ours to the client, at once; `detail` may be NULL. */
void sess_say(struct session *s, const struct local_reply *r, const char *detail);
/* The link if it is up. NULL: it is being opened (again), or the session was ended. */
struct link *sess_need_link(struct session *s);
/* Closes the link without a word; what it owes is answered by us, in place. */
void sess_drop_link(struct session *s, enum link_end why);
/* Nothing is due from the upstream any more: it goes, with what is left in the queue. */
void sess_finish_link(struct session *s);

/* ---- settle.c ---- */
/* Takes input, then settles reading, timers and endings. The last act of every event. */
void sess_step(struct session *s);
/* Takes what may be taken of new input; the rest waits in `inq`. */
void sess_input(struct session *s, struct span data, int32_t buf);
void sess_client_turn(struct session *s); /* the client's clock starts anew */
void sess_timer(struct timer *t);
bool sess_over(const struct session *s); /* nothing holds it any more */

/* ---- command.c ---- */
/* Takes command lines from `in`; octets used. Fewer than in.n means: wait. */
size_t sess_take_commands(struct session *s, struct span in);
size_t sess_take_auth_line(struct session *s, struct span in);

/* ---- answer.c ---- */
bool sess_on_reply(struct session *s, const struct smtp_reply *r); /* false: not yet */
/* A whole reply of the upstream to the client, in the form a client may see. */
void sess_put_reply(struct session *s, struct span raw, bool bare_lf);
void sess_count_reply(struct session *s, unsigned code);
/* Asks the hooks; what the event says of the session is filled in here. A drop ends the session
 * behind the reply. HOOK_LATER: sess_step() comes when there is more to say. */
enum hook_said sess_ask(struct session *s, struct hook_event *ev, const struct local_reply **no);
void sess_tell(struct session *s, struct hook_event *ev);
void sess_settle_connect(struct session *s); /* while `connecting` */
void sess_count_error(struct session *s);    /* what errors and soft-errors limit */

/* ---- queue.c ---- */
/* A command that went (or goes now) to the upstream. */
void queue_upstream(struct session *s, enum slot_kind kind, bool sync, struct txn *t);
/* A command that ringpost answers itself, in its place. */
void queue_local(struct session *s, const struct local_reply *r);
struct slot *queue_head(const struct session *s);
struct slot *queue_tail(const struct session *s); /* NULL when empty */
void queue_pop(struct session *s);
bool queue_full(const struct session *s);
bool queue_sync(const struct session *s);	   /* input must wait for an outstanding command */
bool queue_owes(const struct session *s);	   /* the client waits for a reply */
bool queue_has_final(const struct session *s);	   /* a final reply is due */
bool queue_has_committed(const struct session *s); /* ... for octets that have all left */
/* The tail's octets are still coming (BDAT): its reply is not due, nor believed, until release. */
void queue_hold_tail(struct session *s);
void queue_release_tail(struct session *s);
void queue_await(struct session *s);	  /* the clock of the oldest reply due starts anew */
void queue_emit_local(struct session *s); /* local replies that have reached the head */
void queue_fail(struct session *s);	  /* the upstream is gone: what it owes is answered by us */
void queue_clear(struct session *s);

/* ---- body.c ---- */
void body_begin(struct session *s); /* 354 */
size_t body_take(struct session *s, struct span in, int32_t buf);
/* It never ends upstream; the rest is swallowed, then the client gets `r`. */
void body_refuse(struct session *s, const struct local_reply *r);
void body_early_reply(struct session *s, const struct smtp_reply *r);
void body_link_lost(struct session *s); /* in BODY, CHUNK: the rest is swallowed */
bool body_too_slow(const struct session *s);
void chunk_begin(struct session *s, uint64_t n, enum body_fate fate);
size_t chunk_take(struct session *s, struct span in, int32_t buf);
/* The session ends. A chunk that may have left whole, though its mover has not said so yet, is due
 * its reply. */
void chunk_leave(struct session *s);
/* While `end_held`: goes on when the hooks have said what they have to say. */
void body_settle_end(struct session *s);
/* The octets of the upstream's 220 are staged. */
void opaque_begin(struct session *s);
/* Lets the client's side pass once the 220 has left. */
void opaque_open(struct session *s);
size_t opaque_take(struct session *s, struct span in, int32_t buf);

/* ---- txn.c ---- */
/* One reference; NULL when no more fit. */
struct txn *txn_new(struct session *s, const struct smtp_path *from);
struct txn *txn_ref(struct txn *t);
void txn_unref(struct txn *t); /* the last one writes the record */
/* The session no longer builds it. Undecided: aborted, for `reason`. Does nothing without one. */
void txn_leave(struct session *s, const char *reason);
void txn_rcpt_asked(struct txn *t, const struct smtp_path *to);
void txn_rcpt_refused(struct txn *t, const struct smtp_path *to); /* by us: never asked */
void txn_rcpt_answered(
	struct txn *t, const struct smtp_reply *r); /* in the order they were asked */
/* Outcomes. One that stands (settled) is never changed. Either `r` or `local` says why. */
void txn_reject(struct txn *t, const char *stage, const struct smtp_reply *r,
	const struct local_reply *local, bool settled);
void txn_accept(struct txn *t, const struct smtp_reply *r, bool client_gone);
void txn_abort(struct txn *t, const char *stage, const char *reason); /* not over a rejection */
void txn_in_doubt(struct txn *t, const char *reason);
/* The last octet of what the slot stands for may have reached the upstream: the kernel was given
 * it. Before that no success can be true, and after that its end without a reply leaves a doubt. */
bool txn_committed(const struct session *s, const struct slot *slot);

#endif
