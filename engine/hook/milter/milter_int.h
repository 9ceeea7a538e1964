/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the milter client. A mail session that its filter hears of is a milter_session; it
 * has at most one connection, a milter_conn, for all of its messages. Both are driven by `owed`:
 * the steps that the filter has still to hear of, lowest first, one at a time (milter_steps.c).
 * What the filter answers (milter_say.c) takes steps off, or ends the message or the session for
 * it.
 *
 * Who calls whom: the hook's events (milter.c) and the ring's (milter_conn.c) change a session and
 * then let it go on. Only the ring's may settle a question, and they do it last: milter_report().
 *
 * Ownership: a session belongs to the seat of its mail session (hook_own()), a connection to its
 * stream until that has closed, which may be later. Either knows the other while both live.
 * Threads: the worker's, all of it.
 */
#ifndef HOOK_MILTER_INT_H
#define HOOK_MILTER_INT_H

#include "engine/hook/hook_int.h"
#include "engine/hook/milter/milter_wire.h"
#include "engine/smtp/header.h"

/* Of a message that waits for the filter: the session is told to bring no more, and to go on. */
#define MILTER_FULL_BYTES (256u << 10)
#define MILTER_ROOM_BYTES (64u << 10)
/* A header above this is one that no mail software makes: the question fails. */
#define MILTER_HEADER_BYTES_MAX (256u << 10)
#define MILTER_REASON_MAX 160

/* A growing run of octets, p[at..n). */
struct milter_buf {
	uint8_t *p;
	size_t at, n, max;
};
static inline struct span milter_buf_span(const struct milter_buf *b)
{
	return span_of(b->p ? b->p + b->at : NULL, b->n - b->at);
}
/* False: no memory, and nothing was changed. */
bool milter_buf_add(struct milter_buf *b, struct span octets) MUST_USE;
void milter_buf_take(struct milter_buf *b, size_t n);
void milter_buf_free(struct milter_buf *b);

/* The hook; read by all workers. */
struct milter {
	struct milter_offer offer;
	char host[256]; /* this machine: macro j */
};

/* A worker's share of it. */
struct milter_share {
	struct hook *h;
	struct hook_core *core;
	struct slab sessions, conns;
	struct list waiting; /* sessions that wait for a connection, the oldest first */
	uint32_t waiting_count;
	struct list open; /* connections that were not given up */
	bool told;	  /* of actions that the mode does not have: once is enough */
	/* Where packets are put together; a stream copies them. */
	uint8_t scratch[4 + 1 + MILTER_DATA_BYTES_MAX];
};

enum milter_conn_state {
	MILTER_DIALLING,
	MILTER_AGAIN, /* the queue of the filter's socket is full: it is tried again soon */
	MILTER_NEGOTIATING,
	MILTER_UP,
	MILTER_CLOSING /* nobody's any more */
};

struct milter_conn {
	struct milter_share *share;
	struct milter_session *sess; /* NULL when closing */
	struct list node;
	struct stream st;
	struct timer timer; /* of dialling, of an answer while no question is open, of closing */
	uint64_t dial_by_ms;
	enum milter_conn_state state;
	enum milter_step step; /* waits: what is to be answered */
	bool waits;
	struct milter_neg neg;
	/* The filter's own lists of macros; p NULL: it has none for this stage. In `lists`. */
	struct span macros[MILTER_STAGE_COUNT];
	struct milter_buf lists;
	struct milter_buf in; /* the packet that is not complete */
};

/* What the filter is told about, as it was when the event came. */
enum milter_word {
	WORD_HELO,
	WORD_MECHANISM,
	WORD_IDENTITY,
	WORD_SENDER,
	WORD_SENDER_PARAMS,
	WORD_RCPT,
	WORD_RCPT_PARAMS,
	WORD_TLS_VERSION,
	WORD_TLS_CIPHER,
	WORD_TLS_SUBJECT,
	WORD_COUNT
};

/* The message, as the filter has it. */
enum milter_message {
	MESSAGE_NONE,
	MESSAGE_OPEN,
	MESSAGE_PASSES, /* it has accepted the message before its end */
	MESSAGE_JUDGED, /* `verdict` is what it has said */
	MESSAGE_FAILED	/* it died over it: no question about this message has an answer */
};

/* The question. */
enum milter_question {
	QUESTION_NONE,
	QUESTION_OPEN,
	QUESTION_ANSWERED, /* by `verdict` */
	QUESTION_FAILED
};

/* What came of the message and was not sent yet. */
struct milter_content {
	bool begun, ended, full;
	bool header_done;
	struct header_scan scan;
	struct milter_buf header; /* the block; fields leave at its front */
	struct milter_buf body;
};

struct milter_session {
	struct milter_share *share;
	struct hook_seat *seat;
	const struct conf_listener *lis;
	struct milter_conn *conn; /* NULL: none now */
	struct list waiting;	  /* linked: for a connection */
	struct hook_call *call;	  /* the question, when it was suspended */
	enum hook_point point;	  /* of the question */
	enum milter_question question;
	enum milter_message message;
	bool decided;	/* the whole session passes: the filter accepted it, or it is over */
	bool data_told; /* of this message */
	uint32_t owed;	/* 1 << enum milter_step */
	uint64_t tid;
	struct ring_addr client, server;
	struct milter_buf words[WORD_COUNT];
	uint32_t tls_bits;	/* of the cipher's key; 0: no TLS */
	const char *tls_verify; /* what came of the client's certificate; static; NULL: no TLS */
	struct hook_verdict verdict;
	struct milter_content content;
	struct deferred room; /* tells the seat that there is room again */
	/* What the answer to the end of body has brought so far. */
	struct hook_edits *edits;
	uint64_t new_body_bytes;
	bool quarantined;
	char reason[MILTER_REASON_MAX]; /* why */
};

/* ---- milter_conn.c ---- */

/* Makes the session's connection, or has it wait for one. False: neither can be, and the session's
 * question has failed. */
bool milter_seek(struct milter_session *s) MUST_USE;
/* The session has no connection any more and waits for none. `quit`: with a word of farewell when
 * the filter expects one. Also when there is none. */
void milter_part(struct milter_session *s, bool quit);
/* All connections of the share, at once. True: none is left. */
bool milter_conns_close(struct milter_share *sh);
/* The session's question cannot be answered, or its message not be judged: a line in the log, and
 * the connection is dropped. */
void milter_fail(struct milter_session *s, const char *what);
/* Settles a suspended question when it has an answer. Last in whatever the ring has called: the
 * session may be gone behind it. */
void milter_report(struct milter_session *s);
/* The step's name for the log. */
const char *milter_step_name(enum milter_step step);

/* ---- milter_steps.c ---- */

#define MILTER_OWES(step) (1u << (step))

/* Sends what may be sent now; a question that nothing is owed to any more is answered. */
void milter_go_on(struct milter_session *s);
/* Octets of the message, and that these were all. No memory, too long a header: milter_fail(). Only
 * of a message that is open. */
void milter_content_add(struct milter_session *s, struct span octets);
void milter_content_end(struct milter_session *s);
/* Nothing of it is needed any more. */
void milter_content_drop(struct milter_session *s);
/* The message is over for the filter; it is told so when it does not know. */
void milter_message_over(struct milter_session *s);

/* ---- milter_macros.c ---- */

/* The packet of macros that goes before a step's own. False: there is none to send. */
bool milter_macros(const struct milter_session *s, enum milter_step step, struct milter_out *o);
/* "[192.0.2.1]": how a client is called whose name nobody has looked up. */
struct span milter_client_name(const struct milter_session *s, char *out, size_t max);

/* ---- milter_say.c ---- */

/* A packet of an agreed connection. */
void milter_take(struct milter_session *s, const struct milter_packet *p);
/* The answer to what we offered. */
void milter_take_optneg(struct milter_session *s, const struct milter_packet *p);

#endif
