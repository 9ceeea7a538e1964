/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the parts of the oracle share. oracle_smtp.c reads SMTP text; oracle_read.c reads one
 * session, command by command; oracle_rules.c says what may be answered and what may be passed;
 * oracle_links.c explains every octet on the links; oracle_body.c knows bodies; oracle_log.c
 * compares records and counters. The first violation found stays.
 */
#ifndef TESTS_SIM_ORACLE_INT_H
#define TESTS_SIM_ORACLE_INT_H

#include "tests/sim/oracle.h"
#include "tests/sim/verdicts.h"

#define NONE UINT32_MAX
#define CLOCK_US 1000u	     /* limits are counted in whole milliseconds */
#define LATE_US 1100000u     /* the longest that FAULT_LATE holds anything back (sim_delay()) */
#define AUTH_LINE_MAX 12288u /* of a line in an AUTH exchange, with its end */

/* ringpost's own replies: their words are part of what is documented. */
enum own_reply {
#define X(id, code, enhanced, text, word) OWN_##id,
#include "engine/session/replies.def"
#undef X
	OWN_COUNT
};

struct own_text {
	unsigned code;
	const char *enhanced, *text; /* enhanced NULL: the code has none */
};
extern const struct own_text own_texts[OWN_COUNT];
/* All of it behind the code, in `to`. */
#define OWN_TEXT_MAX 128
struct span own_words(enum own_reply own, char to[OWN_TEXT_MAX]);

/* ---- reading SMTP (oracle_smtp.c) ---- */

/* X(id, verb): what SMTP.md names or takes for known. */
#define ORACLE_VERBS(X)           \
	X(V_HELO, "HELO")         \
	X(V_EHLO, "EHLO")         \
	X(V_MAIL, "MAIL")         \
	X(V_RCPT, "RCPT")         \
	X(V_DATA, "DATA")         \
	X(V_BDAT, "BDAT")         \
	X(V_RSET, "RSET")         \
	X(V_NOOP, "NOOP")         \
	X(V_QUIT, "QUIT")         \
	X(V_VRFY, "VRFY")         \
	X(V_EXPN, "EXPN")         \
	X(V_HELP, "HELP")         \
	X(V_ETRN, "ETRN")         \
	X(V_AUTH, "AUTH")         \
	X(V_STARTTLS, "STARTTLS") \
	X(V_XCLIENT, "XCLIENT")   \
	X(V_XFORWARD, "XFORWARD") \
	X(V_ATRN, "ATRN")         \
	X(V_TURN, "TURN")         \
	X(V_BURL, "BURL")         \
	X(V_XEXCH50, "XEXCH50")   \
	X(V_LHLO, "LHLO")

enum verb {
#define X(id, word) id,
	ORACLE_VERBS(X)
#undef X
		V_OTHER,
	V_NONE
};

enum unit_kind {
	U_END,	/* nothing more */
	U_PART, /* a line without its end */
	U_LINE,
	U_AUTH, /* a line of an AUTH exchange */
	U_BODY, /* of DATA */
};

/* What one reply belongs to. */
struct unit {
	enum unit_kind kind;
	uint32_t off, n; /* the line, or the body */
	uint32_t chunk;	 /* BDAT: octets behind the line that were given */
	bool whole;	 /* body, chunk: its end is there */
	enum verb verb;
	struct span line, arg; /* without the line end; behind the verb */
	bool too_long, bare_lf, control, no_verb, odd_verb;
	bool last, sized;     /* BDAT: LAST, a size that can be read */
	uint64_t size;	      /* BDAT, or MAIL's SIZE= */
	uint32_t number;      /* of the command, from 1 */
	uint32_t ev, line_ev; /* events that gave its last octet, its line's */
	uint64_t us;	      /* when its line was complete */
};

bool smtp_read_line(struct span in, uint32_t off, struct unit *u);
void smtp_read_command(const struct oracle_listener *lis, struct unit *u);
void smtp_read_auth_line(struct unit *u);
bool smtp_is_bdat(const struct unit *u);	/* a command line, and BDAT */
bool smtp_clean_path(const struct unit *u);	/* surely well-formed */
bool smtp_clean_params(const struct unit *u);	/* surely well-formed */
bool smtp_clean_auth(const struct unit *u);	/* surely well-formed */
bool smtp_no_path(const struct unit *u);	/* surely not a MAIL or RCPT */
struct span smtp_address(struct span line);	/* between < and >; n 0: none */
bool span_has(struct span s, const char *word); /* in any case of letters */

#define VERDICT_FAILED UINT32_MAX

enum reply_kind { R_END, R_PART, R_BAD, R_MARKED, R_OWN, R_RULE, R_UNKNOWN, R_VIRTUAL };

struct reply {
	enum reply_kind kind;
	uint32_t off, n;
	unsigned code;
	uint32_t sr; /* marked: index into servers.replies */
	enum own_reply own;
	uint32_t verdict; /* R_RULE: 0: of a rule; VERDICT_FAILED; else the verdict's number + 1 */
	/* When it was decided: its first octet was given to a send, which may have to wait. And
	 * when its last octet was taken. */
	uint32_t ev, end_ev;
	uint64_t us; /* of `ev` */
};

/* ---- the world, indexed (oracle.c) ---- */

struct ev_end {
	uint32_t end, ev; /* the octets before `end` had crossed with event `ev` */
};

struct osock {
	/* Into oracle.ends. `offer`: octets of sends that were begun, none of them counted back. */
	struct ev_end *in, *out, *offer;
	uint32_t in_n, out_n, offer_n;
	uint32_t dial_ev, open_ev, close_ev, loss_ev, in_end_ev; /* NONE: never */
	uint64_t dial_us;
	uint32_t conn; /* servers.conns, or NONE */
	uint32_t sess; /* the session it belongs to, or NONE */
};

struct oconn {
	uint32_t *replies; /* by serial; into oracle.by_serial */
	uint32_t count;
	uint32_t lie_from; /* replies from this serial on prove nothing */
	bool bad;	   /* it lied, left, or said what is no reply */
};

enum doubt { DOUBT_NO, DOUBT_MAY, DOUBT_MUST };

/* A message of a client, as far as it came. */
struct omsg {
	uint32_t sess, number;
	bool bdat, complete;		  /* the client gave its end */
	bool full;			  /* its end was written to the link */
	bool known;			  /* the envelope was followed without a gap */
	uint32_t sock, end_off, last_off; /* the link; its end there; where DATA or the last BDAT
					     began */
	struct octets from, to, body;	  /* owns; what the server should have got */
	struct span want;		  /* the body; into `body` or the session's octets */
	uint32_t final;			  /* servers.replies: what was said to it, or NONE */
	bool told, told_own;		  /* the client got a reply; of ringpost itself */
	uint32_t told_ev, given_ev;	  /* the client was told; had given its end */
	uint32_t due_off; /* where its end would be on the link, as far as known; 0: not known */
	uint32_t commits;
};

/* What the client wrote and a link may have got. */
struct pass {
	struct span text;
	uint32_t msg; /* its last octet is this message's end, or NONE */
	bool whole;   /* false: can only be there in part */
	bool body;    /* of DATA */
	uint32_t number;
};

enum tri { NO, MAYBE, YES };
enum phase { PHASE_COMMAND, PHASE_AUTH, PHASE_BODY };

struct sess {
	uint32_t self, sock;
	const struct rec_sock *rs;
	const struct oracle_listener *lis;
	uint32_t *links, link_n; /* socks, in order; into oracle.links */
	/* reading */
	enum phase phase;
	uint32_t in_at, out_at, number;
	bool over;    /* nothing more is to be read */
	bool ended;   /* a reply that ends the session was told */
	bool quit;    /* QUIT had its reply */
	bool silent;  /* replies are no longer told: read from the links */
	bool refused; /* turned away before it was a session */
	bool greeted;
	uint32_t unanswered; /* number of the first command without a reply; 0: none */
	bool unanswered_in_body;
	/* what is known */
	enum tri chunking, mail;
	uint32_t refused_ev; /* MAIL was refused by the server with this event; 0: not so */
	uint32_t mail_sock, rcpt_passed, rcpt_taken, rcpt_seen;
	bool chunk_seen, too_big, lost, fuzzy, sticky;
	uint64_t bdat_bytes;
	struct octets from, to, chunks; /* owns */
	struct span mail_line;
	uint32_t errors, junk;
	/* The last message that was taken: the junk before it, when its reply was decided, where
	 * the reply ends. */
	uint32_t junk_then, taken_ev, taken_off;
	uint64_t loss_us;     /* when a reply said that the link was lost */
	bool dropped;	      /* the link was dropped on purpose */
	uint32_t late_resets; /* of chunks that a hook may have refused, on whichever link */
	uint64_t sid;	      /* as the verdicts told to it name it; 0: none was */
	bool chunk_open;      /* the last chunk that was read is not whole */
	bool blind;	 /* what a server that lied answered, and nobody was told, is not known */
	uint64_t own_us; /* when ringpost last had a reason to say RSET or `*` itself */
	bool left_over;	 /* commands stood behind the reply that ended the session */
	bool opaque;
	bool tls;	/* the client is in TLS */
	bool hello_due; /* and has not said who it is since */
	bool rushed;	/* octets stood behind a STARTTLS that is ours to answer */
	uint32_t serial_sock, serial_next; /* replies of a link come in order */
	/* links */
	uint32_t cur, at, resets, stars; /* current link, octets explained, own words due */
	uint32_t line_at;		 /* where the last line on it was */
	struct pass *pending;		 /* owns */
	uint32_t pend_at, pend_n, pend_cap;
	struct span hello;
	struct span gone[8]; /* the last commands that ringpost refused */
	uint32_t gone_n;
	uint32_t body_msg, body_off; /* PHASE_BODY: its message; where DATA was, or NONE */
	bool long_line; /* the last command was too long, and answered before its end */
	bool away;	/* gone, or sent away, with less than a reply */
	bool unsure;	/* refused at once, or a session whose first pool was empty */
	bool cut;	/* the client's connection broke, or may have */
};

struct oracle {
	const struct oracle_in *in;
	const struct record *rec;
	const struct servers *srv;
	struct verdict *v;
	struct osock *socks;
	struct oconn *conns;
	struct ev_end *ends;
	uint32_t *by_serial, *links, *strays; /* strays: dialled, of no known session */
	uint32_t stray_n;
	struct sess *sess;
	uint32_t sess_n;
	struct omsg *msgs;
	uint32_t msg_n, msg_cap;
	uint32_t unborn_dead; /* connections that died before they were accepted */
	uint32_t told[OWN_COUNT], told_rule, opaque_n;
	struct octets scratch;
};

/* What crossed, with TLS if there was some: for what is counted but not read. */
static inline const struct record *wire_of(const struct oracle *o)
{
	return o->in->raw ? o->in->raw : o->rec;
}

/* ---- verdict ---- */
static inline bool ok(const struct oracle *o)
{
	return o->v->broken == I_NONE;
}
/* The first one stays. `got` may be SPAN_NONE: shown escaped and cut behind the text. */
void broken(struct oracle *o, enum invariant i, const struct sess *s, uint32_t number,
	struct span got, const char *fmt, ...) PRINTF_LIKE(6, 7);

/* ---- events ---- */
uint32_t ev_of(const struct ev_end *e, uint32_t n, uint32_t end); /* NONE: never */
static inline uint64_t ev_us(const struct oracle *o, uint32_t ev)
{
	return ev == NONE ? UINT64_MAX : o->rec->events[ev].us;
}
/* Fault `f`, from event `from` on and before `to`, and not before that time. */
bool struck_between(
	const struct oracle *o, enum sim_fault f, uint32_t from, uint32_t to, uint64_t since_us);
uint32_t in_ev(const struct oracle *o, uint32_t sock, uint32_t end);
uint32_t out_ev(const struct oracle *o, uint32_t sock, uint32_t end);
uint32_t said_ev(const struct oracle *o, uint32_t sock, uint32_t end);	/* given to a send */
uint32_t in_before(const struct oracle *o, uint32_t sock, uint32_t ev); /* octets given so far */
uint32_t out_before(const struct oracle *o, uint32_t sock, uint32_t ev);

static inline const struct srv_reply *srv_of(const struct oracle *o, uint32_t sr)
{
	return &o->srv->replies[sr];
}
/* The engine had all of it. */
static inline bool reply_given(const struct oracle *o, const struct srv_reply *r)
{
	return o->rec->socks[o->srv->conns[r->conn].sock].in.n >= r->out_end;
}
static inline bool reply_lies(const struct oracle *o, const struct srv_reply *r)
{
	return r->serial >= o->conns[r->conn].lie_from;
}

/* ---- replies (oracle_reply.c) ---- */
uint32_t mark_find(const struct oracle *o, struct span line); /* servers.replies, or NONE */
void reply_read(struct oracle *o, struct sess *s, struct reply *r);
bool reply_same(struct span shown, struct span said); /* but for the spelling of line ends */
void ehlo_compare(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r);

/* ---- reading a session (oracle_read.c) ---- */
void read_session(struct oracle *o, struct sess *s);
/* The connection was dead, or was given up: no reply is owed. */
bool session_cut(const struct oracle *o, const struct sess *s);

/* ---- what may be (oracle_rules.c) ---- */
bool link_trouble(const struct oracle *o, const struct sess *s, uint32_t ev);
/* NULL: it may be said here; else why not. */
const char *own_not_allowed(
	struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r);
const char *may_not_pass(const struct oracle *o, const struct sess *s, const struct unit *u);
bool own_ends(enum own_reply own, bool greeting);
bool verb_refused(const struct sess *s, const struct unit *u);
bool auth_hidden(const struct sess *s); /* AUTH is not shown, and not passed */

/* ---- links (oracle_links.c) ---- */
void links_place(
	struct oracle *o, struct sess *s, const struct pass *p, uint32_t sock, uint32_t off);
void links_pending(struct oracle *o, struct sess *s, const struct pass *p);
/* Tries to find it next on the current link; its offset there, or NONE. */
uint32_t links_try(struct oracle *o, struct sess *s, const struct pass *p, bool onward);
void links_enter(struct oracle *o, struct sess *s, uint32_t sock);
bool links_part(struct oracle *o, struct sess *s, const struct pass *p);
void links_finish(struct oracle *o, struct sess *s);
void links_refused(struct sess *s, struct span text);
uint32_t foreign_mark(struct span s, uint32_t who); /* a client's number, or NONE */

/* ---- bodies (oracle_body.c) ---- */
uint32_t body_end(struct span in, uint32_t off); /* behind CRLF.CRLF, or 0 */
void body_normalize(struct span body, bool whole, struct octets *out);
/* Offset of the octet that makes an end of data for a lax server; SIZE_MAX: none. `end`: where the
 * true end's dot is, or SIZE_MAX. */
size_t body_lookalike(struct span body, size_t end, bool with_nul_only);
size_t body_bare(struct span body, bool more_is_lf); /* first CR or LF alone, or SIZE_MAX */
bool body_refusable(const struct oracle_listener *lis, struct span body, struct octets *tmp);
uint64_t body_size(struct span body, bool unstuffed);
void body_passed(struct oracle *o, struct sess *s, struct omsg *m, uint32_t start, struct span want,
	uint32_t n, bool whole);
void body_bound(struct oracle *o, struct sess *s, uint32_t in_from, uint32_t in_to, uint32_t sock,
	uint32_t out_from);

/* ---- sessions whose hooks change messages (oracle_hooks.c) ---- */
void judge_hooked(struct oracle *o);

/* ---- TLS (oracle_tls.c) ---- */
void judge_tls(struct oracle *o, const struct record *raw);

/* ---- records and counters (oracle_log.c) ---- */
void judge_log(struct oracle *o);

#endif
