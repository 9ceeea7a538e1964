/* SPDX-License-Identifier: 0BSD
 *
 * ringpost.h: what a plugin of ringpost needs, and all it may use. This one file is free for any
 * use; ringpost itself is not.
 *
 * A plugin is a shared object that defines one constant:
 *
 *     const struct ringpost_plugin ringpost_plugin = {
 *             RINGPOST_ABI, sizeof(struct ringpost_plugin), "my-plugin", 0,
 *             RINGPOST_ON(RINGPOST_RCPT), my_open, my_close, my_event};
 *
 * and is named in ringpost's configuration:
 *
 *     hooks:
 *       mine: {type: plugin, file: /usr/lib/ringpost/my-plugin.so, options: {key: value}}
 *
 * ringpost shows it the envelope of each message, event by event, and does what it says. What it
 * sees of the message itself is the configuration's to say, by the hook's `mode`: nothing
 * (`stream`), the octets as they pass, with the end held back until it has spoken (`hold-end`), or
 * the same with the message kept, so that it can be changed (`hold-all`).
 *
 * Threads. event() is called by all of ringpost's workers, at the same time, for different
 * sessions; for one session the calls come one after the other. It runs on the thread that serves
 * thousands of other sessions: it may compute, it may not wait (no file, no socket, no lock that
 * somebody holds for long). What takes longer is answered later: see ringpost_host.suspend(). A
 * plugin that can only wait says so (RINGPOST_MAY_BLOCK) and is called on threads for such plugins.
 *
 * Memory. All that ringpost hands over is borrowed and valid during the call only, except what
 * says otherwise. Spans are octets, not strings: they have a length and no NUL behind them, and
 * hold what a client sent.
 *
 * Trust. A plugin is part of the process. One that crashes takes ringpost with it; one that is
 * slow is counted and named in the log (`hook_overruns`), not stopped.
 *
 * Versions. RINGPOST_ABI changes only when something is taken away or means something else. What
 * is new is added behind what is there: of a structure use only what its `size` covers, and ignore
 * events you do not know.
 */
#ifndef RINGPOST_H
#define RINGPOST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RINGPOST_ABI 1u

struct ringpost_span {
	const char *data; /* not terminated; may be NULL when size is 0 */
	size_t size;
};

/* What a plugin can be told of. Those above the line are questions: the answer decides. Those
 * below it are news: the answer is ignored. */
enum ringpost_event_kind {
	RINGPOST_CONNECT = 0,	  /* a client, before it is greeted */
	RINGPOST_EHLO = 1,	  /* EHLO or HELO, before it is passed on */
	RINGPOST_AUTH = 2,	  /* AUTH: its mechanism, never a secret */
	RINGPOST_MAIL = 3,	  /* MAIL FROM */
	RINGPOST_RCPT = 4,	  /* RCPT TO, each one */
	RINGPOST_DATA = 5,	  /* DATA, or the first BDAT of a message */
	RINGPOST_END_OF_DATA = 6, /* all of a message is here, its end has not left; BDAT: its
				     last chunk was announced, and `bytes` is without it */
	/* ---- */
	/* STARTTLS is about to be answered 220. Where ringpost carries TLS unread (`starttls:
	 * passthrough`) nothing follows but news. Where it is one end of it, the session begins
	 * anew behind the handshake: `helo` is empty until the next EHLO, and all events have
	 * tls_version. A handshake that fails ends the session. TLS from the first octet: no such
	 * event, and CONNECT comes before the handshake */
	RINGPOST_STARTTLS = 7,
	RINGPOST_RESET = 8,	  /* RSET: the transaction, if any, is over */
	RINGPOST_TRANSACTION = 9, /* how a transaction ended */
	RINGPOST_CLOSE = 10,	  /* the last event of a session */
	RINGPOST_BODY = 11	  /* the next octets of the message, before END_OF_DATA; modes
				     hold-end and hold-all only, as END_OF_DATA itself */
};
/* For ringpost_plugin.events. */
#define RINGPOST_ON(kind) (1u << (kind))
#define RINGPOST_ON_ALL 0xfffu
/* All but RINGPOST_BODY. Octets of messages that nobody wants to see pass at a byte mover's cost,
 * and chunks as they were cut: ask for them only if you look at them. */
#define RINGPOST_ON_ENVELOPE 0x7ffu

enum ringpost_result {		  /* of RINGPOST_TRANSACTION */
	RINGPOST_ACCEPTED = 1,	  /* the upstream took it and the client was told */
	RINGPOST_REJECTED = 2,	  /* refused, by the upstream or here */
	RINGPOST_ABORTED = 3,	  /* given up by either side */
	RINGPOST_IN_DOUBT = 4,	  /* the upstream was lost behind its end: nobody knows */
	RINGPOST_CLIENT_GONE = 5, /* taken, and the client left before it knew: it comes again */
	RINGPOST_DISCARDED = 6	  /* the client was told that it was taken, and nobody got it */
};

struct ringpost_event {
	uint32_t size; /* of this structure, as ringpost knows it */
	uint32_t kind; /* enum ringpost_event_kind */
	/* 0, 1, ...: the worker that calls. A session keeps to one worker for its life. */
	uint32_t worker;
	/* Accepted by the upstream so far. In a pipelined group its replies are not there yet:
	 * count RINGPOST_RCPT yourself where it matters. */
	uint32_t recipients;
	uint64_t session;	       /* as `sid` of the log */
	uint64_t transaction;	       /* as `tid` of the log; 0: none is open. MAIL: the one that
					  there is going to be if this MAIL is taken */
	struct ringpost_span listener; /* its name in the configuration */
	struct ringpost_span client;   /* "192.0.2.1", "2001:db8::1", "unix:" */
	struct ringpost_span helo;     /* the name the client gave; empty before EHLO */
	/* AUTH: the one it asks for. Later: the one by which the client has authenticated itself,
	 * empty when it has not */
	struct ringpost_span mechanism;
	struct ringpost_span address; /* MAIL: the sender, empty for <>; RCPT: the recipient;
					 without brackets, quotes as they were written */
	struct ringpost_span params;  /* MAIL, RCPT: "SIZE=1000 BODY=8BITMIME" */
	uint64_t bytes;		      /* END_OF_DATA, TRANSACTION: octets of the message */
	uint32_t result;	      /* TRANSACTION: enum ringpost_result */
	uint32_t code;		      /* TRANSACTION: of the reply that decided, 0: none did */
	uint16_t client_port;
	uint16_t reserved;
	/* Yours, for this session: NULL at first, kept between the calls, never looked at by
	 * ringpost. Each plugin of the configuration has its own. RINGPOST_CLOSE always comes, if
	 * you ask for it: the place to free what you keep here. It, and other news, can come while
	 * a thread of yours still works on a question of the session (the client has gone, the
	 * deadline has passed): give such a thread copies, or count references. */
	void **user;
	/* AUTH: who the client says it is, if its command tells already; nothing is proved yet.
	 * Later: as whom it has authenticated itself. Empty: it has not, or how it did does not
	 * show that. Never a secret */
	struct ringpost_span identity;
	struct ringpost_span sender;	/* RCPT, DATA, END_OF_DATA: as the upstream was told it */
	struct ringpost_span recipient; /* DATA, END_OF_DATA: when there is exactly one */
	struct ringpost_span server;	/* where the client has come in: "192.0.2.2", "unix:" */
	/* BODY: octets of the message, plain (no dots stuffed), in order; where one piece ends
	 * means nothing: lines and line ends may be cut. When the message ends behind it,
	 * END_OF_DATA comes; when it does not, no more comes, and a new message begins behind the
	 * next DATA. */
	struct ringpost_span data;
	uint32_t esmtp; /* 1: the hello is (was) an EHLO */
	uint16_t server_port;
	uint16_t reserved2;
	/* TLS between the client and ringpost, from when its handshake is done until the session
	 * ends; empty and 0 without, also where it is carried unread. Behind XCLIENT it is still
	 * that of the connection: the proxy's. */
	struct ringpost_span tls_version; /* "TLSv1.3" */
	struct ringpost_span tls_cipher;  /* "TLS_AES_128_GCM_SHA256", as the IANA has it */
	/* Of the certificate that the client has shown, if it has: its common name, else its first
	 * alternative one, cut at 128 octets. Any octets; anybody can write one, so look at
	 * tls_verified */
	struct ringpost_span tls_subject;
	struct ringpost_span tls_sha256; /* of that certificate (DER): 32 octets, or none */
	struct ringpost_span tls_sni;	 /* the server's name that the client has asked for */
	uint32_t tls_bits;		 /* of the cipher's key */
	uint32_t tls_verified; /* 1: that certificate is good: of a `client-ca`, and in its time */
};

/* Is this field of *ev there? One that is newer than the ringpost that calls is not. */
#define RINGPOST_HAS(ev, field) \
	((ev)->size >= offsetof(struct ringpost_event, field) + sizeof((ev)->field))

enum ringpost_verdict {
	RINGPOST_PASS = 0,     /* no objection */
	RINGPOST_REJECT = 1,   /* a 5xx reply; at CONNECT instead of the greeting */
	RINGPOST_TEMPFAIL = 2, /* a 4xx reply */
	RINGPOST_DROP = 3,     /* 421 and the end of the session */
	RINGPOST_PENDING = 4,  /* only behind suspend(): the answer comes later */
	/* From MAIL on: the client is told that its message is taken, and nobody gets it: all of
	 * the message, for all of its recipients. Before MAIL: as RINGPOST_PASS */
	RINGPOST_DISCARD = 5
};

/* What is to be changed, and at which question: M: MAIL, R: RCPT, D: DATA, each in every mode; E:
 * END_OF_DATA in mode hold-all. At all other events nothing can be. */
enum ringpost_change_kind {
	/* M R: another mailbox in the command. value: without brackets, "" for <> (M) */
	RINGPOST_CHANGE_ADDRESS = 1,
	/* M R: all parameters of the command. value: "SIZE=10 BODY=8BITMIME", "" for none */
	RINGPOST_CHANGE_PARAMS = 2,
	/* M R D E: a header field with `index` fields before it; 0: on top of all. M R D: 0 only */
	RINGPOST_INSERT_HEADER = 3,
	/* E: a header field behind the last one */
	RINGPOST_ADD_HEADER = 4,
	/* E: the index-th field of that name, from 1; when there is none, one is added */
	RINGPOST_CHANGE_HEADER = 5,
	RINGPOST_DELETE_HEADER = 6, /* E: the same, without `value`; when there is none, nothing */
	/* E: another sender. value: a mailbox, "" for <>; name: its parameters */
	RINGPOST_CHANGE_SENDER = 7,
	RINGPOST_ADD_RECIPIENT = 8,    /* E: one more. value: a mailbox; name: its parameters */
	RINGPOST_DELETE_RECIPIENT = 9, /* E: value: the mailbox of one that was accepted */
	/* E: value: the next piece of a body that takes the place of the message's, plain */
	RINGPOST_REPLACE_BODY = 10
};

/* Header fields: `name` is printable ASCII without a colon. `value` is what stands behind the colon
 * and one blank, which ringpost puts there, without the line end behind it; a folded value has its
 * lines divided by "\n" or "\r\n", each but the first beginning with a blank or a tab. No NUL.
 * Addresses and parameters: as RFC 5321 writes them in MAIL and RCPT. One verdict has at most 1,000
 * changes and, bodies not counted, 1 MiB of them. Of several changes of one address, of parameters,
 * of the sender the last one counts. Hooks that are asked next are shown the changed address and
 * parameters, and those of mode hold-all the changed message. */
struct ringpost_change {
	uint32_t kind; /* enum ringpost_change_kind */
	uint32_t index;
	struct ringpost_span name, value;
};

/* What the client is told, and what is to be changed. Zero what you do not fill in. */
struct ringpost_answer {
	uint32_t size; /* sizeof(struct ringpost_answer): filled in by ringpost for event() */
	uint32_t code; /* REJECT: 500..599, TEMPFAIL: 400..499; 0: 550, 450. Not 421 */
	const char *enhanced; /* "5.7.1", class and code alike; NULL: the usual one */
	const char *text;     /* one line; what is not printable ASCII becomes '?', cut at 199
				 octets; NULL: the usual one */
	/* With RINGPOST_PASS (ignored with all else): change_count of them, in the order in which
	 * they are to be made. One that is not well-formed, one too many, or one that cannot be
	 * made at this event: the hook has failed as a whole (`on-failure`, a line in the log), and
	 * nothing is changed. */
	const struct ringpost_change *changes;
	size_t change_count;
};
/* Set `size` when you make one for answer(); it is set already in event()'s. What `enhanced`,
 * `text` and `changes` point to, the spans of the changes included, is copied before answer() comes
 * back; what event() leaves there right after it came back: static, or kept in *user, never an
 * array on its stack. */

/* Names one question of one session. Copy it as you like. */
struct ringpost_token {
	uint64_t a, b;
};

struct ringpost_option { /* of the configuration, in its order */
	const char *name, *value;
};

enum { RINGPOST_LOG_ERROR = 0, RINGPOST_LOG_WARN = 1, RINGPOST_LOG_INFO = 2 };

/* What ringpost offers. Valid from open() to the end of close(). */
struct ringpost_host {
	uint32_t abi, size;
	uint32_t workers; /* how many there are: ringpost_event.worker is below it */
	uint32_t reserved;
	const char *name; /* the hook's, in the configuration */
	void *handle;	  /* to be handed back, below */

	/* Inside event(), for a question: its session waits. Return RINGPOST_PENDING then. Only
	 * this session waits, no thread does, and as many as you like can wait at the same time. If
	 * event() returns another verdict, that one counts and the token is void. {0, 0}: it cannot
	 * wait (this is no question, or there is no room); RINGPOST_PENDING would be no verdict. */
	struct ringpost_token (*suspend)(void *handle, const struct ringpost_event *ev);

	/* From any thread, once for each token: the answer. `verdict` is not RINGPOST_PENDING,
	 * `answer` may be NULL. 0: it was taken on its way. -1: nobody waits any more as far as is
	 * known here (the deadline has passed, the session is gone, the token was answered before),
	 * or what you say is no answer. -2: it cannot be carried now; you may try again. Changes
	 * that cannot be are taken (0), and mean that the hook has failed.
	 * Unanswered, the session is left to its deadline. */
	int (*answer)(void *handle, struct ringpost_token token, uint32_t verdict,
		const struct ringpost_answer *answer);

	/* From any thread: one line into ringpost's log, with the hook's name, cut at 256 octets;
	 * another level is RINGPOST_LOG_INFO. Dropped when ringpost cannot keep up. */
	void (*log)(void *handle, int level, const char *text);

	/* In open() only: a counter of the plugin's own, 0 at first, which ringpost shows with its
	 * own ones (record `hook-counters` of the log). `name`: at most 31 letters, digits and '_',
	 * not "ts", "ev", "level", "hook", "truncated" nor one that is there already. Returns its
	 * index, to be used with count(); -1: no such name, or there are RINGPOST_COUNTERS_MAX
	 * already. */
	int (*counter)(void *handle, const char *name);

	/* From any thread: adds n to it. An index that counter() did not return does nothing. */
	void (*count)(void *handle, int index, uint64_t n);
};

/* For ringpost_plugin.flags. All events of this plugin come on helper threads, of which there are
 * few for all such plugins (`helpers.threads`): event() may wait there, for as long as the hook's
 * deadline is long. Then:
 *
 * - events of one session come one after the other, in order, on whatever thread: `*user` needs
 *   no lock. Events of different sessions come at the same time, those of one `worker` too.
 * - an event is copied and waits until a thread is free. The hook's `deadline` runs meanwhile. A
 *   question that nobody waits for any more (deadline, client gone) is not shown; one that is
 *   being answered then is answered to nobody. News are shown all the same, however late; two
 *   RESETs with nothing between them may come as one.
 * - when more questions wait than `helpers.queue`, the next one fails (`on-failure`). A session
 *   of which many news wait begins no transaction before some were shown. When too many sessions
 *   that are over wait, new ones are not shown, nor their CLOSE, until there is room; meanwhile
 *   questions fail. END_OF_DATA fails when a piece of the message could not be shown.
 * - suspend() works, from inside event() as ever: with RINGPOST_PENDING the thread is free again.
 * - when ringpost ends, it waits `shutdown-grace` for an event() that does not come back, and then
 *   ends without close(). */
#define RINGPOST_MAY_BLOCK 1u

#define RINGPOST_COUNTERS_MAX 16

struct ringpost_plugin {
	uint32_t abi;	  /* RINGPOST_ABI */
	uint32_t size;	  /* sizeof(struct ringpost_plugin) */
	const char *name; /* for the log: letters, digits, '-', '_' */
	uint32_t flags;	  /* 0 or RINGPOST_MAY_BLOCK */
	uint32_t events;  /* RINGPOST_ON(...) of those you want; others cost nothing */

	/* Once for each hook of the configuration that names the file, before any client is served;
	 * by `ringpost check` as well. If it fails, close() is not called: no thread may be left.
	 * What is logged from here and from close() is not shown.
	 * `*self` is handed to the other functions. 0: ready. Else ringpost does not start, and
	 * says what was written to `error` (a string; `error_size` octets with its NUL): a missing
	 * or wrong option, say. `host` stays where it is; the options are borrowed. */
	int (*open)(const struct ringpost_host *host, const struct ringpost_option *options,
		size_t option_count, void **self, char *error, size_t error_size);

	/* Once, when no session is left. Threads of yours must have ended when it comes back. May
	 * be NULL. */
	void (*close)(void *self);

	/* Returns enum ringpost_verdict. */
	uint32_t (*event)(
		void *self, const struct ringpost_event *ev, struct ringpost_answer *answer);
};

/* Yours to define. Declared here so that it is found: in C++ a constant is not seen from outside
 * otherwise, and -fvisibility=hidden hides it. */
#ifdef __GNUC__
__attribute__((visibility("default")))
#endif
extern const struct ringpost_plugin ringpost_plugin;

#ifdef __cplusplus
}
#endif

#endif
