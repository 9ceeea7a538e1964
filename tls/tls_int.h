/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of this room share. Threads: sites, policies, keys and key logs are of all cores;
 * struct tls, tls_core and tls_resumes of one.
 */
#ifndef TLS_TLS_INT_H
#define TLS_TLS_INT_H

#include "tls/cert.h"
#include "tls/hello.h"
#include "tls/tls.h"
#include "tls/wolf.h"

#include <stdatomic.h>

/* ---- reasons (why.c) ---- */

enum tls_why why_of_error(int err); /* an error of wolfSSL */
enum tls_why why_of_alert(unsigned alert);

/* ---- making contexts (ctx.c) ---- */

/* *e is filled, the result is false: for `return`. */
bool ctx_error(struct tls_error *e, const char *file, const char *fmt, ...) PRINTF_LIKE(3, 4);
WOLFSSL_CTX *ctx_new(bool server, enum tls_version min, const char *ciphers, const char *groups,
	struct tls_error *e);
/* Certificate and key; *leaf (may be NULL) is what the first certificate says. */
bool ctx_use_pair(
	WOLFSSL_CTX *ctx, const struct tls_pair *p, DerBuffer **leaf, struct tls_error *e);
/* The whole file; malloc'd, and NUL behind it. NULL: *e. */
uint8_t *ctx_read_file(const char *path, size_t bytes_max, size_t *n, struct tls_error *e);
void ctx_free_secret(uint8_t *p, size_t n); /* zeroes first; NULL: nothing */

/* ---- sites and policies ---- */

struct site_pair {
	WOLFSSL_CTX *ctx; /* owns */
	char *chain;	  /* its file; owns */
	char **names;	  /* what the certificate is for; owns */
	uint32_t name_count;
	uint8_t kind; /* enum hello_kind */
	int64_t expires_s;
};

struct tls_site {
	atomic_uint refs;
	struct site_pair *pairs; /* owns */
	uint32_t pair_count;
	struct tls_keylog *log; /* borrowed; NULL: none */
	enum tls_client_cert client_cert;
};
const struct site_pair *site_choose(const struct tls_site *s, const struct hello *h);

struct tls_policy {
	atomic_uint refs;
	uint64_t serial;  /* of this process; sessions of one policy are nothing to another */
	WOLFSSL_CTX *ctx; /* owns */
	struct tls_keylog *log;
	enum tls_demand demand;
	bool only_1_2;	     /* TLS 1.2 and nothing later */
	uint8_t (*pins)[32]; /* owns */
	uint32_t pin_count;
};

/* ---- tickets ---- */

/* The server's side of `ctx`: tickets by `k`, or none where it is NULL. */
void keys_attach(struct tls_keys *k, WOLFSSL_CTX *ctx);

/* ---- key log ---- */

void keylog_attach(struct tls_keylog *l, WOLFSSL *ssl); /* NULL: nothing */

/* ---- what is known of a peer by its certificate ---- */

struct tls_peer {
	bool certified, verified;
	uint8_t doubt;			   /* enum tls_why */
	char subject[TLS_SUBJECT_MAX + 1]; /* NUL behind it; cut at TLS_SUBJECT_MAX */
	uint8_t sha256[32];
};

/* ---- sessions that can be resumed ---- */

#define RESUMES_MAX 1024
#define RESUMES_PER_KEY 8 /* connections to one server that begin at the same time */
/* After so many resumptions without a full handshake the next one is full: some servers carry a
 * counter of one octet in the ticket. */
#define RESUME_CHAIN_MAX 200

struct resume {
	WOLFSSL_SESSION *session; /* owns */
	uint8_t chained;
	struct tls_peer peer;
};
struct tls_resumes *resumes_new(void);
void resumes_free(struct tls_resumes *r);
/* Takes over *v in any case. */
void resumes_put(struct tls_resumes *r, uint64_t key, uint64_t policy, const struct resume *v);
/* The newest, which is gone from here then: a ticket is used once (RFC 8446 C.4). */
bool resumes_take(struct tls_resumes *r, uint64_t key, uint64_t policy, struct resume *out);

/* ---- connections ---- */

struct tls {
	struct stream_filter f;
	struct tls_core *core;	      /* borrowed */
	struct tls_site *site;	      /* of a server; counted; NULL behind gone() */
	struct tls_policy *policy;    /* of a client; counted; NULL behind gone() */
	WOLFSSL *ssl;		      /* owns; NULL before it was begun and behind gone() */
	const struct site_pair *pair; /* chosen */
	struct list waiting;	      /* in core->waiting */
	struct deferred start;	      /* a client's beginning */
	uint64_t key;
	struct span in; /* wire octets that wolfSSL has not asked for; only while it runs */
	uint8_t *held;	/* wire octets of before it was begun; owns */
	uint32_t held_n;
	uint8_t why, alert;	/* enum tls_why; of the peer */
	uint8_t verdict;	/* enum tls_why: what verify_peer() refused the certificate for */
	uint8_t answers;	/* to the peer since the last octets that were delivered */
	uint16_t empty_records; /* since then */
	uint16_t again;		/* octets that the second hello may still have; 0: none is due */
	uint8_t chained;	/* resumptions since the last full handshake */
	bool server : 1;
	bool smtp : 1;	   /* the client's ALPN list has it */
	bool heard : 1;	   /* something has come */
	bool shaken : 1;   /* the handshake is done */
	bool accepted : 1; /* the certificate satisfies the policy */
	bool resumed : 1;
	bool reading : 1;     /* inside wolfSSL_read() */
	bool flooded : 1;     /* answers beyond all measure */
	bool clear_alert : 1; /* an alert in clear has come last */
	bool ticket : 1;      /* one has come and is not kept yet */
	bool said_end : 1;
	bool gone : 1;	   /* the stream has */
	bool released : 1; /* by the owner */
	uint16_t bits;
	const char *version, *cipher, *group; /* static words */
	char name[HELLO_NAME_MAX + 1];	      /* of the server: named by the client */
	struct tls_peer peer;
};

/* wolfSSL's verify callback, of servers and clients. */
int verify_peer(int ok, WOLFSSL_X509_STORE_CTX *st);
/* I/O of wolfSSL: a connection is what it is told as `arg`. */
int shake_recv(WOLFSSL *ssl, char *p, int n, void *arg);
int shake_send(WOLFSSL *ssl, char *p, int n, void *arg);
/* A WOLFSSL for `t` that reads t->in and emits. NULL: no memory. */
WOLFSSL *shake_new(struct tls *t);
/* The handshake is done: everything that is to be known of it is in `t`. TLS_WHY_NONE: good. */
enum tls_why shake_done(struct tls *t);
/* The session can be resumed by others from now on. */
void shake_keep(struct tls *t);

#endif
