/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The conformance scripts: some eighty short dialogues with a ring, written against ring.h only,
 * each with the one sequence of completions that is right. They run on the real kernel (`ringpost
 * doctor --probe`, the unit tests) and on the simulated one (tests/sim/conform.c): what they say is
 * the same on both, so a simulation that passes them behaves as the kernel does where it matters.
 *
 * A script arms operations, lets the far side act, turns the ring a bounded number of times, and
 * says in words what came. Where a kernel may choose (how octets are cut into pieces, which of two
 * racing events wins) the script says only what must hold either way.
 *
 * Failure modes: a script that fails is a result, with what was seen. A kernel that never ends an
 * operation costs that script's ring, which is then left behind. One thread at a time; seconds.
 */
#ifndef RING_PROBE_H
#define RING_PROBE_H

#include "ring/ring.h"

#define PROBE_TRACE_BYTES 512

/* How much a connection holds between its ends. */
enum probe_room {
	PROBE_ROOMY, /* as the system has it; less than PROBE_BIG_BYTES in tests of full queues */
	PROBE_SMALL, /* far less than PROBE_BIG_BYTES */
	PROBE_TIGHT, /* the far side takes next to nothing until it reads */
};
#define PROBE_BIG_BYTES (2u << 20)

/* What becomes of a connect to the far side's server. */
enum probe_server { PROBE_ANSWERS, PROBE_REFUSES, PROBE_HANGS };

/* What the far side knows of a connection beyond its octets. */
enum probe_sight { PROBE_OPEN, PROBE_SAW_EOF, PROBE_SAW_RESET };

/* What the world around a script has to be like. */
struct probe_world {
	enum probe_room room;
	bool few_files; /* probe_far.few_files() will be called */
};

/* The far side of a script's connections. Nothing here blocks or turns the ring. A far end is a
 * number >= 0; false, or -1, when the system has no more of something. */
struct probe_far {
	void *arg;
	/* Around each script: before its ring is opened, after it was closed. `left`: the ring
	 * could not be closed and stays behind. */
	bool (*begin)(void *arg, const struct probe_world *w);
	void (*end)(void *arg, bool left);
	unsigned (*pairs_max)(void *arg); /* connections to be had at once */

	bool (*listen)(void *arg, struct ring_fd *out); /* for the ring to accept from */
	void (*unlisten)(void *arg, struct ring_fd *fd);
	int (*dial)(void *arg, struct ring_fd listener); /* a client: waits in the backlog */

	bool (*serve)(void *arg, enum probe_server mode, struct ring_addr *at);
	int (*answer)(void *arg); /* takes what was connected to the server; -1: nobody waits */

	size_t (*send)(void *arg, int far, const void *p, size_t n);
	/* What has arrived, at most n. With 0, *sight says why when there is a reason. */
	size_t (*recv)(void *arg, int far, void *p, size_t n, enum probe_sight *sight);
	void (*shut)(void *arg, int far);
	void (*close)(void *arg, int far); /* an orderly end where TCP allows it */
	void (*reset)(void *arg, int far); /* closes with a reset */

	const char *directory; /* files can be made there */

	/* From now on accepting finds no descriptor left; and it does again. */
	void (*few_files)(void *arg, bool few);
};

extern const struct probe_far probe_far_loopback;

struct lab;

struct probe_script {
	const char *name;
	const char
		*hazard; /* "U3", of the list in tests/unit/test_hazards.c; "" = plain contract */
	const char *shows;
	uint32_t needs; /* RING_FEAT_* bits: not run without */
	uint32_t off;	/* and run without these */
	struct probe_world world;
	void (*conf)(struct ring_conf *c); /* NULL = the probe's own small ring */
	void (*run)(struct lab *l);
	const char *expect;
};

/* Skipped: a feature is not there, or a limit of this process forbids it. */
enum probe_verdict { PROBE_PASSED, PROBE_FAILED, PROBE_SKIPPED };

struct probe_result {
	enum probe_verdict verdict;
	uint32_t features; /* of the ring it ran on */
	char seen[PROBE_TRACE_BYTES];
};

size_t probe_script_count(void);
const struct probe_script *probe_script(size_t i);

void probe_run(const struct probe_script *s, const struct probe_far *far, uint32_t features_off,
	struct probe_result *out);
/* For a script that failed: the feature without which it passes, or which it is about; 0 when none
 * is to blame. Runs it again, once per feature. */
uint32_t probe_blame(const struct probe_script *s, const struct probe_far *far,
	const struct probe_result *failed);

#endif
