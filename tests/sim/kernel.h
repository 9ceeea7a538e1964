/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The simulated kernel: the second implementation of ring.h, chosen at link time, and the far ends
 * of its connections. Everything it does follows from one tape (tape.h). No system calls, no clock,
 * no memory shared with anything else; time is virtual and jumps when nothing else can happen.
 *
 * A connection is two bounded queues of octets, each with a window of what has arrived (the network
 * delays), an end (FIN), and a reset for both. An operation is a row in a table; when it could
 * complete is a fact, when it does is chance. Completions go through a queue of bounded length.
 * Receive buffers that the engine holds no lease of are poisoned under AddressSanitizer, and always
 * overwritten: reading them is a visible defect (U7, I7).
 *
 * It asserts what a caller owes a ring (ring.h): one send in flight per socket, no close with
 * operations armed, every operation ended exactly once, no lease given back twice.
 *
 * Thread: one. One kernel at a time is current: ring_open() makes its ring there.
 */
#ifndef TESTS_SIM_KERNEL_H
#define TESTS_SIM_KERNEL_H

#include "ring/ring.h"
#include "tests/sim/record.h"
#include "tests/sim/tape.h"

enum sim_fault {
#define X(id, word, max, text) id,
#include "tests/sim/faults.def"
#undef X
	SIM_FAULT_COUNT
};
extern const char *const sim_fault_words[SIM_FAULT_COUNT];
extern const uint8_t sim_fault_max[SIM_FAULT_COUNT];

struct sim_kernel_conf {
	uint8_t rate[SIM_FAULT_COUNT]; /* of 256; 0 = never */
	uint32_t features; /* RING_FEAT_* that this kernel has (before ring_conf.features_off) */
	uint32_t send_queue_bytes; /* of one direction of a connection: send and receive buffer */
	uint32_t cq_entries;	   /* of the completion queue; 0: as the ring asks */
	uint64_t disk_bytes;	   /* all files; 0: 64 MiB */
	const char *directory;	   /* the only one there is; NULL: all are there */
	uint32_t buf_count, buf_bytes; /* 0: as the ring asks; else smaller pools */
	uint64_t start_us;	       /* of both clocks */
	bool crowded;		       /* much happens in a turn */
	/* What is under way arrives whole and in order, a reset destroys nothing that was sent
	 * before it, and a turn brings everything that is due: as on an idle machine between two
	 * sockets of its own. */
	bool loopback;
};

/* What acts beside the engine while it waits: clients and servers. */
struct sim_env {
	/* Does one small thing. False: there is nothing to do now. */
	bool (*step)(void *arg);
	/* When there will be something to do though nothing arrives; UINT64_MAX = never. */
	uint64_t (*next_us)(void *arg);
	void *arg;
};

struct sim_kernel;

struct sim_kernel *sim_kernel_new(
	const struct sim_kernel_conf *conf, struct tape *t, struct record *rec);
void sim_kernel_free(struct sim_kernel *k); /* the ring was closed */
void sim_kernel_use(struct sim_kernel *k);  /* current, for ring_open(); NULL = none */
void sim_kernel_env(struct sim_kernel *k, const struct sim_env *env);
/* From here on no faults; what was stuck, hung or dead stays so. */
void sim_kernel_calm(struct sim_kernel *k);
uint64_t sim_now_us(const struct sim_kernel *k);
/* The last turn had no limit and ended because nothing can ever happen any more. */
bool sim_stuck(const struct sim_kernel *k);
uint32_t sim_open_sockets(const struct sim_kernel *k); /* of the engine, listeners apart */
uint32_t sim_open_files(const struct sim_kernel *k);
uint64_t sim_completions(const struct sim_kernel *k);  /* delivered so far */
/* A fault of a class that lies outside the kernel (FULL_SLAB) strikes by chance: counted,
 * recorded. */
bool sim_fault_strikes(struct sim_kernel *k, enum sim_fault f);

/* ---- the engine's listening sockets ---- */
struct ring_fd sim_listener(struct sim_kernel *k, uint32_t number);
void sim_listener_close(struct sim_kernel *k, struct ring_fd fd); /* nothing armed on it */

/* ---- far ends ----
 * A far end is a number >= 0, valid until far_free(). Nothing here blocks. Every call is recorded.
 */
enum far_dial { FAR_ANSWERS, FAR_REFUSES, FAR_HANGS, FAR_NO_ROUTE };

/* Connects as client number `who` from `from` to the engine's listener: it waits in the backlog
 * (first come, first served) until the engine accepts. */
int far_connect(
	struct sim_kernel *k, const struct ring_addr *from, struct ring_fd listener, uint32_t who);
/* Server number `who` is reached at `at`: connections of the engine wait for far_accept(). What
 * becomes of a connect may be changed at any time. */
void far_listen(struct sim_kernel *k, const struct ring_addr *at, uint32_t who);
void far_dial_mode(struct sim_kernel *k, uint32_t who, enum far_dial mode);
int far_accept(struct sim_kernel *k, uint32_t who); /* -1: nobody waits */
/* The socket of the engine at the other end: index into record.socks; REC_NO_SOCK while the engine
 * has not accepted. */
uint32_t far_sock(const struct sim_kernel *k, int far);

/* Where the record keeps what the oracle needs to see through the far end's TLS; its pointer is
 * NULL at first, and owns. */
struct rec_veil **far_veil(struct sim_kernel *k, int far);

/* As much as there is room for; 0 on a connection that is reset or whose output was shut. */
size_t far_send(struct sim_kernel *k, int far, const void *p, size_t n);
size_t far_room(const struct sim_kernel *k, int far);
/* What has arrived, at most n. */
size_t far_recv(struct sim_kernel *k, int far, void *p, size_t n);
size_t far_readable(const struct sim_kernel *k, int far);
bool far_eof(const struct sim_kernel *k, int far);  /* all was read and the engine sends no more */
bool far_dead(const struct sim_kernel *k, int far); /* reset, by whomever */
void far_shut(struct sim_kernel *k, int far);	    /* FIN behind what was sent */
/* Closes: FIN behind what was sent; with unread octets, or when more arrive, a reset as TCP does.
 */
void far_close(struct sim_kernel *k, int far);
void far_reset(struct sim_kernel *k, int far);
void far_free(struct sim_kernel *k, int far); /* closed or reset before */

#endif
