/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The record of a simulated world: every octet that crossed between the engine and the simulated
 * kernel, on which socket, in which order and when, and how each connection ended. Written by the
 * kernel (and by the servers, see server.h); read by the oracle, the transcript and the hash. It
 * knows nothing of the engine's state.
 */
#ifndef TESTS_SIM_RECORD_H
#define TESTS_SIM_RECORD_H

#include "ring/ring.h"

struct octets {
	uint8_t *p; /* owns */
	size_t n, cap;
};

void octets_add(struct octets *o, const void *p, size_t n);
void octets_free(struct octets *o);
static inline struct span octets_span(const struct octets *o)
{
	return span_of(o->p, o->n);
}

/* X(id, word). "far" is the other side of a socket of the engine: a client or a server. */
#define REC_KINDS(X)                                                                             \
	X(REC_OPEN, "open")		  /* accepted and given to the engine; or connected */   \
	X(REC_DIAL, "dial")		  /* the engine wants to connect */                      \
	X(REC_DIAL_FAILED, "dial-failed") /* `res` */                                            \
	X(REC_IN, "in")		  /* `n` octets at `off` of sock.in were given to the engine */  \
	X(REC_IN_END, "in-end")	  /* the engine was told: no more input; `res` */                \
	X(REC_OUT, "out")	  /* `n` octets at `off` of sock.out were taken of the engine */ \
	X(REC_OFFER, "offer")	  /* a send of `n` octets at `off` of sock.out is under way */   \
	X(REC_OUT_ERR, "out-err") /* the engine was told that sending failed; `res` */           \
	X(REC_SHUT, "shut")	  /* the engine: no more output */                               \
	X(REC_CLOSE, "close")	  /* the engine closed; `res` RING_RESET: with a reset */        \
	X(REC_FAR_IN, "far-in")	  /* the far side read `n` octets */                             \
	X(REC_FAR_OUT, "far-out") /* the far side wrote `n` octets */                            \
	X(REC_FAR_SHUT, "far-shut")                                                              \
	X(REC_FAR_CLOSE, "far-close")                                                            \
	X(REC_FAR_RESET, "far-reset")                                                            \
	X(REC_NET_DEAD, "net-dead") /* a fault: the network broke the connection */              \
	X(REC_FAULT, "fault")	    /* `n` is the enum sim_fault that struck */                  \
	X(REC_CALM, "calm")	    /* no faults from here on */

enum rec_kind {
#define X(id, word) id,
	REC_KINDS(X)
#undef X
		REC_KIND_COUNT
};

/* What a listener, or a server, does about TLS. */
enum sim_tls {
	SIM_CLEAR,    /* nothing: STARTTLS may be carried through */
	SIM_STARTTLS, /* TLS behind STARTTLS */
	SIM_IMPLICIT, /* from the first octet */
};

/* TLS of an actor: what is needed to read what crossed, see see.h. */
#define VEIL_SECRET_BYTES 32
enum veil_secret {
	VEIL_CLIENT_HANDSHAKE,
	VEIL_SERVER_HANDSHAKE,
	VEIL_CLIENT,
	VEIL_SERVER,
	VEIL_SECRETS
};

struct rec_veil {
	uint8_t secret[VEIL_SECRETS][VEIL_SECRET_BYTES];
	bool has[VEIL_SECRETS];
	bool server;   /* the far side is TLS's server */
	bool fouled;   /* it broke TLS on purpose */
	bool open;     /* its handshake was done */
	bool injected; /* the far side said more in clear behind STARTTLS, or its 220 */
	uint32_t in_clear, out_clear; /* octets that crossed before TLS */
	uint32_t in_kept, out_kept;   /* of those: what the oracle is to see, at the front */
};

#define REC_NO_SOCK UINT32_MAX
#define REC_FAULTS_MAX 32

struct rec_event {
	uint64_t us;
	uint32_t sock; /* index into record.socks, or REC_NO_SOCK */
	uint32_t off, n;
	uint8_t kind, res; /* enum rec_kind, enum ring_res */
};

/* One socket of the engine: a session's (accepted) or a link's (dialled). */
struct rec_sock {
	bool dialled, open, closed;
	uint32_t who;	   /* accepted: the client's number, as far_connect() was told; dialled: the
			      server's, as far_listen() was told, UINT32_MAX when nobody listens there */
	uint32_t listener; /* accepted: the listener's number, as sim_listener() was told */
	struct ring_addr peer;
	struct octets in, out; /* given to the engine; taken of the engine */
	/* The most that the engine could think was taken: octets of `out` and of a send that was
	 * given to the kernel and has not ended. */
	size_t offered;
	bool in_end, out_err; /* REC_IN_END, REC_OUT_ERR happened */
	uint8_t in_end_res, out_err_res, dial_res;
	bool shut, far_shut, far_closed, far_reset, net_dead;
	bool stuck; /* the fault "wake-up lost" struck: its input never came again */
	/* Of a view (see.h): TLS was in use; its last words have left, and came. */
	bool veiled, said_end, far_said_end;
	uint32_t end_ev; /* of a view: the event that brought the far side's last words; 0: none */
	struct rec_veil *veil; /* owns; NULL: all is as it is */
	uint64_t open_us, close_us, last_in_us, last_out_us;
};

struct record {
	struct rec_event *events; /* owns, as the rest */
	size_t count, cap;
	struct rec_sock *socks;
	uint32_t sock_count, sock_cap;
	uint64_t hash;			 /* of all events and octets so far */
	uint64_t faults[REC_FAULTS_MAX]; /* by enum sim_fault; how often each struck */
};

void record_init(struct record *r);
void record_free(struct record *r);
uint32_t record_sock(struct record *r); /* a new one, zeroed; its index */
void record_event(struct record *r, uint64_t us, uint32_t sock, enum rec_kind kind,
	enum ring_res res, uint32_t off, uint32_t n);
/* Adds the octets to sock.in (REC_IN) or sock.out (REC_OUT), the times, and the event. */
void record_octets(
	struct record *r, uint64_t us, uint32_t sock, enum rec_kind kind, struct span data);
/* For the hash: anything else that must come out the same. */
void record_mix(struct record *r, const void *p, size_t n);
/* Both sides, line by line, readable: time, socket, direction, octets with escapes. */
void record_print(const struct record *r, FILE *out);

#endif
