/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A link is one connection to a server of an upstream: picking the server, connecting, greeting,
 * EHLO capabilities, complete replies. It knows nothing of the session that uses it: the borrower
 * gets events until it lets go. Two ways to open one:
 *   first    the greeting is handed to the borrower like any reply
 *   replay   the link itself reads the greeting, says the EHLO it was given, compares the answer
 *            with the earlier one, and then is ready: a replacement in mid-session
 *
 * TLS. An upstream of `tls: ` other than off wants its links secured before anything but EHLO,
 * STARTTLS and QUIT leaves. From the first octet (implicit): the link does it before the greeting.
 * By STARTTLS: the borrower has the greeting, and asks for it with link_secure() when it has a
 * hello to say; a replacement does it on its way. `opportunistic` is secured also when TLS cannot
 * be had: then in clear.
 *
 * Owned by the core's struct upstreams (slab); after link_drop() or on_lost() the borrower must not
 * touch it again. Thread: the core's.
 */
#ifndef UPSTREAM_LINK_H
#define UPSTREAM_LINK_H

#include "engine/conf/conf.h"
#include "engine/obs/log.h"
#include "engine/obs/stat.h"
#include "engine/smtp/ehlo.h"
#include "engine/smtp/reply.h"
#include "ring/stash.h"
#include "ring/stream.h"
#include "ring/timer.h"

/* Why a link ended. X(id, log word) */
#define LINK_ENDS(X)                                  \
	X(LINK_EOF, "upstream-eof")                   \
	X(LINK_RESET, "upstream-reset")               \
	X(LINK_TIMEOUT, "upstream-timeout")           \
	X(LINK_BAD_REPLY, "upstream-bad-reply")       \
	X(LINK_UNREACHABLE, "upstream-unreachable")   \
	X(LINK_NO_MEMORY, "upstream-memory")          \
	X(LINK_REFUSED_GREETING, "upstream-greeting") \
	X(LINK_DIFFERS, "upstream-differs")           \
	X(LINK_TLS_MISSING, "upstream-tls-missing")   \
	X(LINK_TLS_FAILED, "upstream-tls")            \
	X(LINK_INJECTION, "upstream-injection")       \
	X(LINK_DROPPED, "link-dropped")

enum link_end {
#define X(id, word) id,
	LINK_ENDS(X)
#undef X
		LINK_END_COUNT
};
const char *link_end_word(enum link_end e);

struct link;

struct link_events {
	/* Complete; spans valid during the call. False: not now; it comes again with link_resume().
	 */
	bool (*on_reply)(void *who, const struct smtp_reply *r);
	void (*on_ready)(void *who); /* replay done, same as before; or link_secure() is */
	/* Gone: no more events. `why` LINK_UNREACHABLE: l->server and link_why_connect() say which
	 * and what. */
	void (*on_lost)(void *who, enum link_end why);
	void (*on_drained)(void *who);
	void (*on_opaque)(void *who, struct span data, int32_t buf); /* after link_go_opaque() */
	void (*on_opaque_end)(void *who, enum ring_res why);
	void (*on_quiet)(void *who);
	void (*on_broken)(void *who,
		enum ring_res why); /* nothing more can be sent; its last words may still come */
};

struct link_hello {	  /* what a replacement repeats; spans borrowed until on_ready or on_lost */
	struct span line; /* "EHLO name\r\n"; empty: greeting only */
	uint64_t caps_hash;
	bool ehlo; /* EHLO, so the lists are compared */
};

enum link_state {
	LINK_DIALLING,
	LINK_REDIAL,	/* a failed socket is being closed, then the next server */
	LINK_AGAIN,	/* the same, then the same server in clear */
	LINK_UNREACHED, /* no server is left; about to tell */
	LINK_TLS,	/* implicit: the handshake before the greeting */
	LINK_GREETING,
	LINK_TLS_HELLO, /* an EHLO in clear was said, only to find STARTTLS */
	LINK_TLS_START, /* STARTTLS was said */
	LINK_TLS_DUE,	/* 220 has come: what comes in the same turn is no TLS */
	LINK_TLS_SHAKE,
	LINK_HELLO, /* replay: EHLO said */
	LINK_UP,
	LINK_OPAQUE,
	LINK_GONE, /* let go of; the memory waits for the stream to close */
};

struct upstreams;

struct link {
	struct stream st;
	struct upstreams *core;
	const struct conf_upstream *up;
	const struct conf_server *server; /* tried or connected */
	const struct link_events *ev;	  /* NULL when nobody borrows it */
	void *who;
	struct timer timer;
	uint64_t deadline_ms; /* of what is being waited for; 0 = nothing */
	uint64_t sent_mark;   /* bytes_out when the deadline was set */
	size_t more;	      /* octets received behind those that are being read */
	size_t unread;	      /* octets behind the reply that is being handed on */
	struct stash in;      /* an unfinished reply */
	struct reply_scan rs;
	struct ehlo_caps caps;
	struct link_hello hello;
	struct list node;      /* in core->all */
	uint16_t first, tried; /* dialling: server index begun with, servers tried */
	uint8_t tried_bits[CONF_SERVERS_MAX / 8];
	struct tls *tls;     /* NULL: none (yet); released with the link */
	const char *why_tls; /* word of the last handshake that failed; static; NULL: none has */
	uint8_t state;	     /* enum link_state */
	uint8_t why_connect; /* enum ring_res of the last failed connect */
	bool replay;	     /* the link reads greeting and EHLO itself */
	bool plain;	     /* TLS has failed with this server: not tried again */
	bool secured;	     /* as its upstream wants it: what comes may leave */
	bool held;	     /* the oldest reply in `in` was not wanted yet */
	bool end_held;	     /* and behind it the input ended, with: */
	uint8_t end_why;     /* enum ring_res */
};

/* What all links of one core share. */
struct upstreams {
	struct streams *streams;
	struct tls_core *tls;		    /* borrowed; NULL where no upstream has TLS */
	struct tls_policy *const *policies; /* by conf_upstream.index; borrowed */
	struct timers *timers;
	struct stash_pools *stashes;
	struct stat_table *stats;
	struct log_buf *log;
	struct slab links;
	struct list all;
	struct upstream_state {
		uint32_t next;		 /* round robin */
		uint64_t *down_until_ms; /* per server */
		bool *tls_failed;	 /* the same: known not to do TLS as it should */
	} * states;			 /* by conf_upstream.index; owns */
	uint32_t state_count;
};

bool upstreams_init(struct upstreams *u, const struct conf *conf, struct streams *ss,
	struct timers *ts, struct stash_pools *stashes, struct stat_table *stats,
	struct log_buf *log, uint32_t links_max) MUST_USE;
void upstreams_fini(struct upstreams *u);

/* NULL when no link is left. `hello` NULL: the greeting goes to the borrower. on_lost may come, but
 * never from inside this call. */
struct link *link_open(struct upstreams *u, const struct conf_upstream *up,
	const struct link_events *ev, void *who, const struct link_hello *hello);
/* The borrower lets go: the connection is closed without a word; no events follow. */
void link_drop(struct link *l);

static inline bool link_up(const struct link *l)
{
	return l && l->state == LINK_UP;
}
/* It is up and has what its upstream wants: a command may go. */
static inline bool link_usable(const struct link *l)
{
	return link_up(l) && l->secured;
}
/* What leaves is encrypted. */
static inline bool link_encrypted(const struct link *l)
{
	return l->secured && l->tls;
}
/* The hello that it was secured for was refused: the next one looks for TLS anew. */
static inline void link_hello_refused(struct link *l)
{
	if (!l->tls && !l->plain && l->up->tls.mode != CONF_TLS_OFF)
		l->secured = false;
}
/* Up, but to be secured first: `hello` is the line that the client has said (EHLO or HELO), from
 * which the name is taken. Not up until on_ready() says that it is usable, or on_lost() that it is
 * not to be had. */
void link_secure(struct link *l, struct span hello);
/* That is under way for the borrower (not for a replacement that is not ready yet). */
static inline bool link_securing(const struct link *l)
{
	return l && !l->replay && l->state >= LINK_TLS_HELLO && l->state <= LINK_TLS_SHAKE;
}
/* The borrower says when it is read. */
static inline bool link_may_pause(const struct link *l)
{
	return l->state == LINK_GREETING || l->state >= LINK_HELLO;
}
/* Why the last server could not be reached; a static word. */
const char *link_why_connect(const struct link *l);
/* For the last words about a link that is let go of, or was lost: its TLS is the caller's, who
 * reads the facts and calls tls_release(). NULL when it was not encrypted. */
struct tls *link_take_tls(struct link *l);

/* What was held is offered again; events as from the stream. */
void link_resume(struct link *l);
/* A reply (or room to send) is due within `ms` from now; 0 = nothing is being waited for. */
void link_await(struct link *l, uint32_t ms);
/* st.bytes_out once everything staged so far was taken by the kernel; never, when it cannot be. */
static inline uint64_t link_out_mark(const struct link *l)
{
	return l->st.broken ? UINT64_MAX : l->st.bytes_out + stream_backlog(&l->st);
}

/* From now on octets are not replies. Any that are already here are returned by true: unsafe. */
bool link_go_opaque(struct link *l);

#endif
