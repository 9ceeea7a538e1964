/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The configuration as an immutable snapshot. conf_load() reads YAML (libyaml), checks everything
 * by one schema table (engine/conf/schema.def) and reports every error of the file in one run; what
 * it returns never changes afterwards and may be read from any thread. All strings and arrays live
 * in the snapshot's arena and go with it.
 */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include "engine/smtp/ehlo.h"
#include "engine/smtp/local.h"
#include "engine/smtp/scan.h"
#include "ring/mover.h"
#include "ring/ring.h"
#include "tls/tls.h"

#define CONF_CPUS_MAX 1024
#define CONF_SERVERS_MAX 256 /* of one upstream */

struct conf_cidr {
	uint8_t family; /* AF_INET or AF_INET6; IPv4-mapped peers are compared as IPv4 */
	uint8_t bits;
	uint8_t addr[16]; /* network order, host bits zero */
};

struct conf_nets {
	bool any; /* the word `any` */
	const struct conf_cidr *v;
	uint32_t count;
};

struct conf_server {
	struct ring_addr addr;
	const char *text; /* as the logs and replies show it */
};

enum conf_starttls {
	STARTTLS_NONE,
	STARTTLS_PASSTHROUGH, /* client and server agree, we carry */
	STARTTLS_OFFER,	      /* ours; the client may */
	STARTTLS_REQUIRE,     /* ours; no mail without it */
	STARTTLS_IMPLICIT     /* ours, from the first octet (port 465) */
};

/* What is demanded of the way to an upstream. Ordered by strength. */
enum conf_tls { CONF_TLS_OFF, CONF_TLS_OPPORTUNISTIC, CONF_TLS_REQUIRE, CONF_TLS_VERIFY };

/* AUTH on a leg without TLS. */
enum conf_clear_auth {
	CLEAR_AUTH_OFF,
	CLEAR_AUTH_LOCAL /* loopback and Unix sockets */,
	CLEAR_AUTH_ON
};
enum conf_log_format { LOG_JSON, LOG_LOGFMT };
enum conf_log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct conf_log {
	const char *path; /* NULL = standard error */
	enum conf_log_format format;
	enum conf_log_level level;
};

/* One address, domain or name in a rule list. */
struct conf_pattern {
	enum {
		PAT_EXACT,
		PAT_DOMAIN,
		PAT_SUBDOMAINS
	} kind;		    /* user@dom | @dom | @.dom (any depth below) */
	struct span local;  /* PAT_EXACT: compared exactly as written, but for ASCII case */
	struct span domain; /* lower case */
};

/* hooks: type rules. Every list may be empty. */
struct conf_rules {
	const struct conf_pattern *senders, *recipients;
	uint32_t sender_count, recipient_count;
	bool reject_null_sender; /* `<>` in reject-senders */
	const struct conf_pattern
		*ehlo; /* PAT_EXACT: whole name in .domain; PAT_SUBDOMAINS: ".dom" */
	uint32_t ehlo_count;
	struct conf_nets clients;
	struct local_reply reply; /* 4xx or 5xx; enhanced of the same class; one printable line;
				     word: the hook's */
};

enum conf_hook_type { HOOK_RULES, HOOK_PLUGIN, HOOK_LUA, HOOK_POLICY, HOOK_MILTER };

/* What a hook gets to see of a message, and what can still be changed when it speaks. Ordered: a
 * listener does what the last one among its hooks needs. */
enum conf_hook_mode {
	HOOK_STREAM,   /* the envelope; the message passes by */
	HOOK_HOLD_END, /* the message streams past it, the end waits for its verdict */
	HOOK_HOLD_ALL, /* the message is kept until it has spoken */
};

/* hooks: type policy: what it can be asked about. X(id, number, word): numbered as enum hook_point,
 * which lies beyond this room (engine/hook/set.c compares). */
#define CONF_EVENTS(X)           \
	X(CONNECT, 0, "connect") \
	X(EHLO, 1, "ehlo")       \
	X(MAIL, 3, "mail")       \
	X(RCPT, 4, "rcpt")       \
	X(DATA, 5, "data")       \
	X(END_OF_DATA, 6, "end-of-data")

enum conf_event {
#define X(id, number, word) CONF_##id = number,
	CONF_EVENTS(X)
#undef X
};

/* hooks: type milter: what it means here that a filter wants a message put aside. */
enum conf_quarantine {
	QUARANTINE_REJECT,
	QUARANTINE_TEMPFAIL,
	QUARANTINE_DISCARD,
	QUARANTINE_ACCEPT
};

/* What it means when a hook fails, or has not answered in time. */
enum conf_hook_failure { HOOK_FAILS_TEMPFAIL, HOOK_FAILS_ACCEPT, HOOK_FAILS_REJECT };

struct conf_option {
	const char *name, *value;
};

struct conf_hook {
	const char *name;
	enum conf_hook_type type;
	const char *word;  /* "hook:NAME" (rules: "rule:NAME"): what the log calls its refusals */
	const char *where; /* "file:line:column" of its name, for messages from beyond this room */
	enum conf_hook_failure on_failure; /* tempfail */
	uint32_t deadline_ms;		   /* for one answer: 30s; rules never need it */
	struct conf_rules rules;
	/* All but HOOK_RULES (which are always HOOK_STREAM) and HOOK_POLICY (HOOK_HOLD_END when it
	 * is asked at the end of data). The others: hold-end */
	enum conf_hook_mode mode;
	/* HOOK_PLUGIN, HOOK_LUA */
	const char *file;		   /* absolute path; not opened yet */
	const struct conf_option *options; /* in the order of the file */
	uint32_t option_count;
	/* HOOK_LUA */
	uint64_t budget;       /* instructions of one call: 1m */
	uint64_t memory_bytes; /* of one worker's state: 16m */
	/* HOOK_POLICY, HOOK_MILTER */
	struct conf_server endpoint;
	uint32_t connections; /* of one worker: policy 20, milter 500 */
	uint32_t queue;	      /* questions of one worker that may wait for one: 1k */
	uint32_t connect_ms;  /* 10s */
	/* HOOK_POLICY */
	uint32_t events;	    /* 1 << enum conf_event, so enum hook_point; rcpt */
	uint32_t idle_ms, ttl_ms;   /* of a connection: 5m, 1000s */
	const char *policy_context; /* "" */
	/* HOOK_MILTER */
	uint32_t content_deadline_ms; /* for the answer to the end of data: 5m */
	enum conf_quarantine quarantine;
	const char *daemon_name; /* macro {daemon_name}; NULL: the listener's name */
};

struct conf_listener_timeouts { /* milliseconds */
	uint32_t command;	/* waiting for a whole command line: 5m (RFC 5321 4.5.3.2.7) */
	uint32_t data;		/* between two pieces of a body: 3m (4.5.3.2.5) */
	uint32_t send;		/* a client that does not read: 5m without progress */
	uint32_t tls;		/* a whole handshake: 30s */
};

struct conf_listener_limits {	      /* 0 = off where said */
	uint32_t per_client_sessions; /* 50; 0 = off */
	uint32_t per_client_rate;     /* sessions per rate_window_ms; 0 = off (default) */
	uint32_t rate_window_ms;      /* 60s, or what the rate says: 600/min */
	uint32_t recipients;	      /* per message, accepted or asked: 1,000, then 452 4.5.3 */
	uint64_t message;	      /* octets of a message, 0 = the server's limit only */
	uint32_t errors;	      /* replies 4xx/5xx before 421: 20 */
	uint32_t soft_errors;	 /* from here each further error reply waits error_delay_ms: 10 */
	uint32_t error_delay_ms; /* 1s */
	uint32_t
		junk; /* NOOP, RSET, VRFY, ... since the last message: 100, then each is an error */
	uint32_t command_line; /* octets with CRLF, 512..4096: 4096 */
	uint32_t pipeline;     /* commands outstanding before input waits: 250, at most 255 */
};

/* One name of `certificates`. */
struct conf_certificates {
	const char *name;
	const struct tls_pair *pairs;
	const char *const *wheres; /* of each pair: "file:line:column" */
	uint32_t pair_count;	   /* at least 1 */
};

struct conf_upstream;

struct conf_listener {
	const char *name;
	const struct ring_addr *bind;
	uint32_t bind_count;
	struct conf_nets clients; /* who may connect; all of loopback when a loopback
				     listener has no list */
	struct conf_nets trusted; /* may use XCLIENT and XFORWARD */
	enum conf_starttls starttls;
	const struct conf_certificates *certificates; /* NULL: none */
	/* From STARTTLS_OFFER on: its pairs are those of `certificates`. */
	struct tls_site_conf tls;
	enum conf_clear_auth clear_auth; /* local */
	struct ehlo_policy ehlo;	 /* .trusted is set per session */
	enum scan_mode bare_newlines;
	struct conf_listener_timeouts timeouts;
	struct conf_listener_limits limits;
	const char *where; /* "file:line:column" of its name, for messages from beyond this room */
	const struct conf_hook *const *hooks; /* in order */
	uint32_t hook_count;
	const struct conf_upstream *upstream;
	uint32_t index;
};

struct conf_upstream_timeouts { /* milliseconds */
	uint32_t connect;	/* one server: 30s */
	uint32_t greeting;	/* 5m (RFC 5321 4.5.3.2.1) */
	uint32_t reply;		/* MAIL, RCPT and all others: 5m (.2, .3) */
	uint32_t data_init;	/* DATA: 2m (.4) */
	uint32_t final_reply;	/* after the dot or BDAT LAST: 630s, not below 600s (.6) */
	uint32_t send;		/* a server that does not read: 3m without progress (.5) */
	uint32_t tls;		/* a whole handshake: 30s */
};

struct conf_upstream_tls {
	enum conf_tls mode; /* off */
	bool implicit;	    /* from the first octet; else by STARTTLS */
	const char *name; /* in the certificate, and asked for; NULL: none (pins, or the chain alone
			     is noted) */
	const struct conf_certificates *certificate; /* whose first pair is ours; NULL: none */
	struct tls_policy_conf policy;		     /* demand: by mode and pins */
	enum conf_clear_auth clear_auth;	     /* local */
};

struct conf_upstream {
	const char *name;
	const char *where; /* as a listener's */
	struct conf_upstream_tls tls;
	const struct conf_server *servers; /* round robin, the next one on a failed connect */
	uint32_t server_count;
	struct conf_upstream_timeouts timeouts;
	uint32_t retry_down_ms; /* a server that refused is tried last for this long: 5s */
	enum mover mover;
	const struct ring_addr *source; /* local address to connect from, or NULL */
	uint32_t index;
};

struct conf {
	uint16_t cpus[CONF_CPUS_MAX]; /* one worker each */
	uint32_t cpu_count;
	bool pinned;	  /* false when `workers: N` asks for a number instead of CPUs */
	const char *user; /* NULL = stay who we are */
	struct conf_log log;
	struct {
		uint32_t sessions;	 /* of the whole process: 20k */
		uint64_t memory;	 /* bytes for staged octets of the whole process: 1g */
		uint32_t accept_backlog; /* 4096 */
		bool pressure;		 /* shorten limits under pressure: on */
	} limits;
	uint32_t shutdown_grace_ms; /* 30s */
	/* Messages that are kept (mode hold-all). */
	struct {
		uint64_t memory;       /* of the whole process: 256m */
		uint64_t disk;	       /* the same: 4g */
		uint64_t spill;	       /* of one message in memory: 256k */
		uint64_t message;      /* of one message at all: 50m */
		const char *directory; /* /var/tmp */
	} hold;
	/* Threads for plugins that may block. */
	struct {
		uint32_t threads; /* of the process: 8 */
		uint32_t queue;	  /* questions that may wait for one: 1k */
	} helpers;
	/* What listeners and upstreams name. */
	const struct conf_certificates *certificates;
	uint32_t certificate_count;
	/* Of all TLS. */
	struct {
		const char *ticket_keys;    /* file, or NULL: random at start */
		uint32_t ticket_rotate_ms;  /* 12h; 0: no tickets */
		const char *key_log;	    /* file, or NULL: none */
		uint64_t expiry_warning_ms; /* 14 days */
		const char *where;	    /* of the mapping, or the file alone */
	} tls;
	const struct conf_listener *listeners;
	uint32_t listener_count;
	const struct conf_upstream *upstreams;
	uint32_t upstream_count;
	const struct conf_hook *hooks;
	uint32_t hook_count;
	const char *path; /* of the file; NULL: it was none that can be read again */
	uint64_t hash;	  /* of its text */
	void *arena;	  /* owns everything above */
};

/* Reads `path` ("-" = standard input). NULL on any error; every message has been written to `err`
 * as "file:line:column: message" with the line and a caret below, then a count. Warnings go there
 * too. */
struct conf *conf_load(const char *path, FILE *err) MUST_USE;
struct conf *conf_load_text(const char *name, const char *text, size_t len, FILE *err) MUST_USE;
void conf_free(struct conf *c);
/* Its file is there and holds another text by now. What the file brings in (${file:...}) is not
 * looked at. */
bool conf_changed(const struct conf *c);

/* The effective configuration, defaults filled in, as YAML (ringpost -T). */
void conf_dump(const struct conf *c, FILE *out);
/* The reference of all directives as Markdown, from the schema table (docs/CONFIGURATION.md). */
void conf_reference(FILE *out);

bool conf_nets_match(const struct conf_nets *n, const struct ring_addr *a);

#endif
