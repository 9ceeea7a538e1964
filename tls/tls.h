/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS for streams: octets in, octets out. Everything of wolfSSL ends in this room; it knows no
 * socket, no SMTP, no configuration and no log. Four kinds of things, by life:
 *
 *   the library    once per process
 *   tls_keys       ticket keys of the process, of all listeners and workers
 *   tls_site       what a listener's handshakes need: certificates, lists, client CAs. Immutable,
 * counted, any thread. tls_policy     what an upstream's handshakes need and demand. The same. tls
 * one side of one connection: a filter (ring/filter.h). Of the core's thread.
 *
 * Sites and policies are made from files away from the rings (up to 10 ms) and replaced as a whole:
 * a connection keeps the one it began with. Never written anywhere: keys, session secrets (but for
 * a key log, where one was opened).
 */
#ifndef TLS_TLS_H
#define TLS_TLS_H

#include "ring/slab.h"
#include "ring/stream.h"

enum tls_why {
#define X(id, word, text) id,
#include "tls/why.def"
#undef X
	TLS_WHY_COUNT
};
const char *tls_why_word(enum tls_why w);
const char *tls_why_text(enum tls_why w);

/* Why something could not be made; `file` is one of the paths that were given, or NULL. */
struct tls_error {
	const char *file;
	char text[256]; /* a sentence without a full stop */
};

/* ---- the library ---- */

bool tls_library_init(struct tls_error *e) MUST_USE; /* before all else, once; single-threaded */
void tls_library_fini(void);
const char *tls_library_version(void); /* "wolfSSL 5.7.2" */
bool tls_library_accelerated(void);    /* AES instructions are compiled in and this CPU has them */

/* Secrets of every connection, in the format of NSS (SSLKEYLOGFILE), for debugging only. NULL: *e.
 */
struct tls_keylog;
struct tls_keylog *tls_keylog_open(
	const char *path, struct tls_error *e) MUST_USE; /* created 0600, appended to */
void tls_keylog_close(struct tls_keylog *k); /* NULL: nothing. No site or policy of it is left. */

/* ---- ticket keys: one ring for all, so that a ticket of one worker is good at every other ---- */

/* A new key every rotate_s seconds; tickets of the two before it are still taken (and renewed).
 * With a file (80 octets of secret or more, base64 or binary) all keys are derived from it and the
 * time, so that restarts and other machines that have it agree; without one they are random. */
struct tls_keys;
struct tls_keys *tls_keys_new(const char *file, uint32_t rotate_s, struct tls_error *e) MUST_USE;
void tls_keys_tick(struct tls_keys *k,
	uint64_t now_s);		/* one thread, now and then: makes the key that is due */
void tls_keys_free(struct tls_keys *k); /* zeroes them; no site is left */

/* ---- sites: the server's side ---- */

enum tls_version { TLS_1_2, TLS_1_3 };
enum tls_client_cert { TLS_CLIENT_NONE, TLS_CLIENT_OPTIONAL, TLS_CLIENT_REQUIRED };

struct tls_pair { /* PEM files; NULL, NULL: none */
	const char *chain, *key;
};

struct tls_site_conf { /* borrowed until tls_site_new() has returned */
	/* A client that names a host gets the pair whose certificate has that name (wildcards too),
	 * of these an ECDSA one before an RSA one if it can use it; else the first pair of a kind
	 * it can use. */
	const struct tls_pair *pairs;
	uint32_t pair_count; /* at least 1 */
	enum tls_version min;
	const char
		*ciphers;   /* colon-separated names of wolfSSL, both versions; NULL: TLS_CIPHERS */
	const char *groups; /* colon-separated; NULL: TLS_GROUPS */
	enum tls_client_cert client_cert;
	const char *client_ca; /* PEM file; needed unless TLS_CLIENT_NONE */
};
#define TLS_CIPHERS                                                                                \
	"TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:TLS13-CHACHA20-POLY1305-SHA256:"          \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:" \
	"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define TLS_GROUPS "X25519:P-256:P-384"

struct tls_site;
/* `keys` NULL: no tickets; `log` NULL: none; both borrowed for as long as the site lives. NULL: *e.
 */
struct tls_site *tls_site_new(const struct tls_site_conf *c, struct tls_keys *keys,
	struct tls_keylog *log, struct tls_error *e) MUST_USE;
struct tls_site *tls_site_ref(struct tls_site *s);
void tls_site_unref(struct tls_site *s); /* NULL: nothing */
/* When the first of its certificates ends (seconds of 1970); *chain: the file, valid as long as the
 * site. */
int64_t tls_site_expires_s(const struct tls_site *s, const char **chain);

/* ---- policies: the client's side ---- */

/* What is demanded of the server's certificate. The slot for DANE and MTA-STS: what they find out
 * ends in one of these, with names or pins. */
enum tls_demand {
	TLS_DEMAND_NONE,   /* encrypted is enough; whether it could be verified is noted */
	TLS_DEMAND_VERIFY, /* a chain to one of the CAs, and the name */
	TLS_DEMAND_PIN,	   /* one of the pins, whatever the chain says */
};

struct tls_policy_conf { /* borrowed until tls_policy_new() has returned */
	enum tls_demand demand;
	const char *ca;		   /* PEM file or directory; NULL: the system's */
	const uint8_t (*pins)[32]; /* SHA-256 of the whole certificate (DER), or of its public key
				      (SPKI) */
	uint32_t pin_count;
	struct tls_pair own; /* the client certificate */
	enum tls_version min;
	bool no_later;		      /* than `min`: for measurements and tests */
	const char *ciphers, *groups; /* as above */
};

struct tls_policy;
struct tls_policy *tls_policy_new(
	const struct tls_policy_conf *c, struct tls_keylog *log, struct tls_error *e) MUST_USE;
struct tls_policy *tls_policy_ref(struct tls_policy *p);
void tls_policy_unref(struct tls_policy *p); /* NULL: nothing */

/* ---- what the connections of one core share ---- */

#define TLS_STARTS_PER_TURN \
	16 /* handshakes begun in one turn: one costs up to 0.6 ms (RSA), and others wait */

struct tls_core {
	struct streams *streams;
	struct slab conns;
	uint8_t *plain;		     /* one record; owns */
	struct list waiting;	     /* handshakes put off to the next turn, oldest first */
	struct tls_resumes *resumes; /* sessions of servers that can be resumed; owns */
	uint32_t started;	     /* in this turn */
};

bool tls_core_init(struct tls_core *c, struct streams *ss, uint32_t conns_max) MUST_USE;
void tls_core_fini(struct tls_core *c); /* no connection is left */
/* Begin of a turn, behind ring_turn(): handshakes that were put off. */
void tls_core_turn(struct tls_core *c);
/* Some wait now: the next ring_turn() must not sleep. */
static inline bool tls_core_waits(const struct tls_core *c)
{
	return !list_empty(&c->waiting);
}

/* ---- connections ---- */

struct tls;

/* NULL: no room (counted by the slab). The filter has to be set on its stream next; what fails
 * later comes as the stream's on_end(RING_PROTO), and tls_why() says why. Keeps a reference of the
 * site. */
struct tls *tls_accept(struct tls_core *c, struct tls_site *site);
/* `name`: of the server, for its choice of a certificate and for the check; NULL: neither (an
 * address). `key`: what a session may be resumed at (which server; never under another policy); 0:
 * none. Sessions of 1.3 only. tls_start() is
 * due once the filter is set. */
struct tls *tls_connect(
	struct tls_core *c, struct tls_policy *policy, const char *name, uint64_t key);
struct stream_filter *tls_filter(struct tls *t);
void tls_start(struct tls *t); /* a client speaks first */
/* The owner needs it no more (nor its facts). The memory goes when the stream has gone too; one
 * whose filter was never set goes at once. */
void tls_release(struct tls *t);

enum tls_why tls_why(const struct tls *t);
/* The alert that the peer gave up with, or 0. */
unsigned tls_alert(const struct tls *t);
/* The peer has said that it ends (close_notify): its octets are all here. */
bool tls_said_end(const struct tls *t);

#define TLS_SUBJECT_MAX 128

/* From on_open() until tls_release(), also when the stream has closed. Static words or inside `t`.
 */
struct tls_facts {
	const char *version; /* "TLSv1.3" */
	const char *cipher;  /* "TLS_AES_128_GCM_SHA256": the IANA's name */
	uint32_t bits;	     /* of the cipher's key */
	const char *group;   /* "X25519"; "" unknown */
	const char *sni;     /* what the client named; "" nothing */
	bool resumed;
	bool certified; /* the peer showed a certificate, now or in the session that was resumed */
	bool verified;	/* ... and its chain is good (and its name, where one was to be checked) */
	enum tls_why doubt;    /* certified but not verified: why */
	const char *subject;   /* of the peer's certificate: CN, else the first name; "" none. May
				  hold any octets */
	const uint8_t *sha256; /* of it, 32 octets; NULL none */
};
void tls_facts(const struct tls *t, struct tls_facts *out);

#endif
