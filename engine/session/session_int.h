/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The session machine, shared by the files of this room.
 *
 *	session.c   life: accept, end, destructor, the events of both sides' streams
 *	settle.c    taking input; what follows from the state: reading, timers, endings
 *	command.c   client -> upstream: lines, and one handler per verb
 *	mail.c      the handlers of mail transactions
 *	answer.c    upstream -> client: one handler per kind of slot
 *	queue.c     commands in flight paired with their replies, in order
 *	body.c      message octets: DATA, BDAT, and the opaque phase behind STARTTLS
 *	hold.c      messages that are kept until the hooks have spoken
 *	envelope.c  their envelopes, as commands that can be said again
 *	secure.c    TLS of the client's leg; what has to wait for TLS on either
 *	txn.c       transactions and their log records
 *	ask.c       what hooks are told
 *	change.c    what hooks change of an envelope
 *
 * Client input goes through phases:
 *
 *	GREETING -> COMMAND -> BODY  -> COMMAND      DATA answered 354 ... the end of data
 *	                    -> CHUNK -> COMMAND      BDAT n ... n octets
 *	             BODY, CHUNK -> HELD -> COMMAND  all of it is kept ... it was sent, or refused
 *	                    -> AUTH  -> COMMAND      334 ... one line
 *	                    -> OPAQUE                STARTTLS answered 220 by the upstream
 *	                    -> TLS   -> COMMAND      ... by us ... the handshake is done
 *	TLS -> GREETING                              TLS from the first octet (implicit)
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
#include "engine/smtp/dots.h"
#include "engine/smtp/line.h"
#include "engine/smtp/local.h"
#include "engine/smtp/scan.h"
#include "ring/mover.h"

#define SCRATCH_BYTES (64u << 10)
/* Indexes are uint8_t. As many as `limits.pipeline` may be, and some for what ringpost adds. */
#define QUEUE_SLOTS 256
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
	PHASE_HELD,
	PHASE_AUTH,
	PHASE_OPAQUE,
	PHASE_TLS,
	PHASE_ENDING,
};

/* What becomes of the message octets being received. */
enum body_fate { BODY_PASS, BODY_SWALLOW, BODY_KEEP };

enum slot_kind {
	SLOT_COMMAND,  /* any command without a rule of its own below */
	SLOT_STATEFUL, /* a command after whose success the link cannot be replaced */
	SLOT_HELLO,    /* EHLO, HELO */
	SLOT_MAIL,
	SLOT_RCPT,
	SLOT_DATA,
	SLOT_CHUNK,
	SLOT_LAST_UNSAID, /* a SLOT_PART whose MAIL was refused: the client's after all */
	SLOT_FINAL,	  /* the final dot, or BDAT LAST */
	SLOT_AUTH,
	SLOT_STARTTLS,
	SLOT_XCLIENT,
	SLOT_QUIT,
	/* Our own commands: their replies are for nobody */
	SLOT_DISCARD,
	SLOT_REPLAY,	/* ... but must be a 2xx: a changed envelope */
	SLOT_PART,	/* ... but a refusal is the message's: its last chunk, without LAST */
	SLOT_HELD_DATA, /* ... but must be a 354: DATA of a message that was kept */
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
	X(TXN_DISCARDED, "discarded") /* told that it was taken, by a hook's word */   \
	X(TXN_ABORTED, "aborted")                                                      \
	X(TXN_IN_DOUBT, "in-doubt")

enum txn_outcome {
#define X(id, word) id,
	TXN_OUTCOMES(X)
#undef X
};

/* The envelope as commands: see envelope.c. */
struct envelope {
	uint8_t *p; /* malloc'd; owns */
	size_t n, max;
	bool again; /* what the upstream was told does not hold any more: RSET, and all anew */
};
enum env_state { ENV_MAIL, ENV_ASKED, ENV_TAKEN, ENV_REFUSED, ENV_NEW, ENV_GONE };
struct env_line {
	size_t at;
	struct span line; /* with CRLF */
	enum env_state state;
};

struct held;

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
	bool cr_unseen;			   /* by the hooks: it was the last octet of a piece */
	const struct local_reply *refused; /* set: RCPT, DATA, BDAT of it get this */
	/* Set: nobody gets it, and its end is answered with this. */
	const struct local_reply *discard;
	struct held *held;    /* the message, while it is kept; owns */
	struct envelope env;  /* as it can be said again, when the message is going to be kept */
	struct dots dots;     /* of what hooks are shown as it comes */
	struct stash headers; /* fields that hooks put on top; empty once they have left */
	size_t data_fields;   /* octets of them, the first ones, because of a DATA */
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

/* Large, and most sessions never need one: leased from the first use to the session's end. */
struct sess_move {
	struct move move;
	struct session *s;
};

struct session {
	struct sess_core *core;
	const struct conf_listener *lis;
	struct list node; /* in core->all */
	struct stream cli;
	struct link *link; /* borrowed; NULL when there is none */
	struct tls *tls,
		*up_tls; /* the client's; of the last link that had it, when that is gone */
	struct timer timer;
	uint64_t id;
	uint64_t began_us;
	struct ring_addr client;

	/* client input */
	struct inq inq;	   /* waits */
	struct stash line; /* an unfinished command line */
	size_t line_seen;
	struct move *up, *down;		      /* BDAT octets; opaque octets each way */
	const struct local_reply *body_reply; /* what the end of a swallowed DATA is answered */
	uint64_t chunk_left;		      /* BDAT octets still to swallow */
	uint64_t opaque_mark;		      /* TLS: cli.bytes_out that means "the 220 has left" */
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

	const char *cause;     /* why no server could be reached, why TLS failed; static */
	const char *lost_word; /* why the last link that was lost or dropped went; static */
	uint32_t commands, messages, errors, errors_total, junk;
	uint8_t phase;	       /* enum sess_phase */
	uint8_t fate;	       /* enum body_fate */
	uint8_t end;	       /* enum sess_end; END_NONE while it lives */
	uint8_t end_when_idle; /* enum sess_end: due when no reply is */
	bool hello_ok : 1;     /* EHLO or HELO was accepted: repeat it on a new link */
	bool bound : 1;	       /* AUTH, XCLIENT or the like: the link cannot be replaced */
	bool chunk_last : 1;   /* the BDAT being received is the LAST one */
	bool chunk_part : 1;   /* ... and the upstream was told that it is not */
	bool hello_ehlo : 1;   /* `hello` is an EHLO */
	bool asked_ehlo : 1;   /* so is the hello whose reply is due */
	bool discard_line : 1; /* rest of a line that was too long */
	bool lingering : 1;    /* ending: the last words are out, the client may still be talking */
	bool line_waits : 1;   /* `line` holds a complete line that said LATER */
	bool client_eof : 1;
	bool client_gone : 1; /* reset, or cannot be written to: nobody reads our replies */
	bool client_open : 1; /* its stream is not closed yet */
	bool trusted : 1;
	bool cli_tls : 1;	   /* the handshake with the client is done */
	bool hello_denied : 1;	   /* the link could not be secured for the hello that waits */
	bool connecting : 1;	   /* the hooks have not said yet whether the client may come in */
	bool up_open : 1;	   /* opaque: the 220 has left, what the client says may pass */
	uint8_t end_held;	   /* octets of the end of the data that wait for a verdict */
	bool up_ended, down_ended; /* opaque: that direction is over, all its octets staged */
	bool up_told, down_told;   /* and the other side was told */
	char auth_mech[20];
	uint16_t auth_code;
	uint8_t auth_turn;	 /* responses of the client so far */
	struct stash auth_asked; /* who it says it is, when hooks may want to know */
	/* How and as whom it was accepted: a later AUTH that is refused does not change that. */
	char auth_by[20];
	struct stash auth_name;
	struct sess_server { /* where it has come in, the same */
		uint16_t family, port;
		uint8_t addr[16];
	} server_addr;
	/* Of the line that is read, or waits: what the hooks have said. */
	uint16_t asked;			   /* 1 << enum hook_point: they have passed it */
	struct hook_edits *edits;	   /* and want this changed; owns */
	const struct local_reply *discard; /* and want the message thrown away */
	uint64_t mail_id; /* of the transaction that MAIL is going to begin; or 0 */
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
/* The link if commands may go there. NULL: it is being opened (again), or the session was ended; or
 * a hello has to secure it first (secure_link_for()), in front of which no other command gets here.
 */
struct link *sess_need_link(struct session *s);
void sess_open_first_link(struct session *s);
/* Closes the link without a word; what it owes is answered by us, in place. */
void sess_drop_link(struct session *s, enum link_end why);
/* The upstream is to forget the transaction. */
void sess_reset_upstream(struct session *s);
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
/* One that was taken, as far as the client is told: what errors and junk limit begins anew. */
void sess_count_message(struct session *s);
void sess_settle_connect(struct session *s); /* while `connecting` */
void sess_count_error(struct session *s);    /* what errors and soft-errors limit */

/* ---- secure.c ---- */
/* Nothing but SMTP_F_EARLY can be said before the next hello: it begins anew behind TLS, or secures
 * the link. */
bool secure_hello_due(const struct session *s);
/* Why this verb cannot be said yet; NULL: it can. Counted. The second: AUTH, because a way of it is
 * in clear; what cannot be known without a link is no reason. */
const struct local_reply *secure_objection(struct session *s, enum smtp_verb v);
const struct local_reply *secure_auth_objection(struct session *s);
void secure_extensions(const struct session *s, struct ehlo_policy *pol);
bool secure_implicit(const struct session *s);
void secure_let_in(struct session *s);		       /* implicit: the hooks have passed it */
size_t secure_take(struct session *s, struct span in); /* the first octets in PHASE_TLS */
void secure_opened(struct session *s);		       /* the handshake with the client is done */
/* The client's stream has ended or failed: as what the session ends, if it does. */
enum sess_end secure_client_lost(struct session *s, enum ring_res why);
void secure_too_slow(struct session *s); /* in PHASE_TLS */
/* A hello waits for the link: secures it, where that is what it waits for. */
void secure_link_for(struct session *s, struct span hello);
/* The link is lost. `hello_denied` when the hello that waits for it is to hear so: the other. */
void secure_link_lost(struct session *s, enum link_end why);
void secure_deny_hello(struct session *s);
void secure_link_ready(struct session *s);
void secure_keep_facts(struct session *s); /* the link is about to go */
void secure_record(const struct session *s, struct log_rec *rec);
void secure_free(struct session *s);

/* ---- ask.c ---- */
/* Asks the hooks; what the event says of the session is filled in here. A drop ends the session
 * behind the reply. HOOK_LATER: sess_step() comes when there is more to say. */
enum hook_said sess_ask(struct session *s, struct hook_event *ev, struct hook_word *word);
void sess_tell(struct session *s, struct hook_event *ev);
/* Octets of the message to the hooks that want to see them; the second: dot-stuffed ones. */
void sess_show(struct session *s, struct span data);
void sess_show_stuffed(struct session *s, struct dots *d, struct span data);
void sess_note_server(struct session *s, struct ring_fd fd); /* where the client has come in */

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
void queue_disown_final(struct session *s, const struct txn *t); /* its reply is for nobody */
void queue_own_part(struct session *s, const struct txn *t); /* ... is the client's, after all */
void queue_await(struct session *s);	  /* the clock of the oldest reply due starts anew */
void queue_emit_local(struct session *s); /* local replies that have reached the head */
void queue_fail(struct session *s);	  /* the upstream is gone: what it owes is answered by us */
void queue_clear(struct session *s);

/* ---- body.c ---- */
void body_begin(struct session *s); /* 354 */
size_t body_take(struct session *s, struct span in, int32_t buf);
/* It never ends upstream; the rest is swallowed, then the client gets `r`. */
void body_refuse(struct session *s, const struct local_reply *r);
/* It goes nowhere: DATA is answered by us, the body swallowed. */
void body_discard(struct session *s);
/* MAIL, while its last chunk comes or the hooks are asked about the end: that is not asked any
 * more, and what the upstream makes of the chunk is the answer. */
void body_mail_refused(struct session *s);
void body_early_reply(struct session *s, const struct smtp_reply *r);
void body_link_lost(struct session *s); /* in BODY, CHUNK: the rest is swallowed */
bool body_too_slow(const struct session *s);
/* `reply`: of a chunk that is swallowed, what it is answered when it is here; NULL: it was already.
 */
void chunk_begin(
	struct session *s, uint64_t n, enum body_fate fate, const struct local_reply *reply);
/* The upstream does not want it; a client that is still sending it hears that now. */
void chunk_part_refused(struct session *s, struct txn *t, const struct smtp_reply *r);
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

/* It is kept: ringpost answers DATA itself. hold_begin() was called. */
void body_keep(struct session *s);
/* All of the message was given to the link: its final reply is due. */
void body_sent(struct session *s);

/* ---- hold.c ---- */
bool hold_core_init(struct sess_core *c, const struct conf *conf,
	const struct sess_core_conf *cc) MUST_USE;  /* the streams are there */
uint64_t hold_message_max(const struct session *s); /* octets of one message; 0: no limit */
bool hold_wanted(const struct session *s);	    /* messages of this listener are kept */
/* s->txn->held. `stuffed`: it comes by DATA. False: no room. */
bool hold_begin(struct session *s, bool stuffed) MUST_USE;
void hold_drop(struct txn *t); /* it is not wanted any more; nothing if it is not kept */
/* Octets of it. NULL: they are kept; else why not. */
const struct local_reply *hold_add(struct session *s, struct span data);
const struct local_reply *hold_no_room(struct session *s); /* counted */
bool hold_full(const struct session *s);		   /* the file is behind: stop for now */
/* All of it is here, `n` octets are the message: PHASE_HELD. hold_settle() is due. */
void hold_judge(struct session *s, uint64_t n);
uint64_t hold_bytes(const struct session *s);
void hold_settle(struct session *s); /* in PHASE_HELD: goes on with what can be done now */
void hold_link_lost(struct session *s);
bool hold_sending(const struct session *s);
void hold_go_ahead(struct session *s); /* 354 */
/* The upstream does not want it: its words are the client's. */
void hold_refused(struct session *s, const struct smtp_reply *r, const char *stage);
void hold_envelope_refused(struct session *s, const struct smtp_reply *r);

/* ---- envelope.c ---- */
bool env_add(struct envelope *e, enum env_state state, struct span line) MUST_USE;
void env_answered(struct envelope *e, bool taken); /* the oldest that was asked about */
/* Changes; mailboxes without brackets. False: no room. */
bool env_rcpt(struct envelope *e, struct span mailbox, struct span params) MUST_USE;
bool env_sender(struct envelope *e, struct span mailbox, struct span params) MUST_USE;
bool env_delete(struct envelope *e, struct span mailbox); /* false: nobody of that name */
uint32_t env_rcpts(const struct envelope *e);		  /* taken, or new */
bool env_next(const struct envelope *e, size_t *at, struct env_line *out);
/* What the upstream has to be told yet, from *at (0 at first) on. */
bool env_to_say(const struct envelope *e, size_t *at, struct span *line);
void env_free(struct envelope *e);

/* ---- change.c ---- */
/* A line in the log about a change that was made. */
void change_record(struct session *s, const struct hook_edit *e);
/* MAIL, RCPT as s->edits have it: *line is the whole line (in the core's scratch memory, until the
 * next use of that), *path what it says. Without a change both stay. False: it became too long. */
bool change_path(
	struct session *s, bool is_rcpt, struct span *line, struct smtp_path *path) MUST_USE;
/* Header fields of s->edits into t->headers. False: no room. */
bool change_headers(struct session *s, struct txn *t) MUST_USE;
/* DATA was refused: another one is asked about again. */
void change_data_undone(struct session *s, struct txn *t);

/* ---- txn.c ---- */
/* One reference; NULL when no more fit. */
struct txn *txn_new(struct session *s, const struct smtp_path *from);
void txn_sender(struct txn *t, struct span mailbox); /* what the record says */
struct txn *txn_ref(struct txn *t);
void txn_unref(struct txn *t); /* the last one writes the record */
/* The session no longer builds it. Undecided: aborted, for `reason`. Does nothing without one. */
void txn_leave(struct session *s, const char *reason);
void txn_rcpt_asked(struct txn *t, const struct smtp_path *to);
void txn_rcpt_refused(struct txn *t, const struct smtp_path *to); /* by us: never asked */
void txn_rcpt_answered(
	struct txn *t, const struct smtp_reply *r); /* in the order they were asked */
/* When there is exactly one, taken or asked about. */
struct span txn_only_rcpt(const struct txn *t);
/* Outcomes. One that stands (settled) is never changed. Either `r` or `local` says why. */
void txn_reject(struct txn *t, const char *stage, const struct smtp_reply *r,
	const struct local_reply *local, bool settled);
void txn_accept(struct txn *t, const struct smtp_reply *r, bool client_gone);
void txn_discard(struct txn *t, const char *stage, const struct local_reply *r);
void txn_abort(struct txn *t, const char *stage, const char *reason); /* not over a rejection */
void txn_in_doubt(struct txn *t, const char *reason);
/* The last octet of what the slot stands for may have reached the upstream: the kernel was given
 * it. Before that no success can be true, and after that its end without a reply leaves a doubt. */
bool txn_committed(const struct session *s, const struct slot *slot);

#endif
