/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The hook of the simulated worlds: it stands where plugins stand (hook_plugin_class is defined
 * here, the product's is not linked) and is seeded. It passes at once, objects, fails, or waits and
 * is answered later: in time, too late, twice, never.
 *
 * Each objection has a text of its own, " v<number>", and is written down: a reply that reaches a
 * client names the verdict it comes from.
 */
#ifndef TESTS_SIM_VERDICTS_H
#define TESTS_SIM_VERDICTS_H

#include "engine/hook/hook_int.h"
#include "tests/sim/kernel_int.h"

#define VERDICTS_DEADLINE_S "10s"
#define VERDICT_TEXT "a verdict v"

struct verdict_made {
	uint64_t sid, tid;   /* tid 0: not noted */
	uint8_t point, kind; /* enum hook_point, hook_verdict_kind */
	uint32_t ev;	     /* events of the record when it was made */
	bool told;	     /* the oracle has seen its reply */
};

struct wishes;

struct verdicts {
	struct sim_kernel *k;
	struct tape *t;
	const struct record *rec;
	struct hook_set *set;
	bool busy; /* does more than pass */
	bool calm;
	struct verdict_made *made; /* owns, as the next */
	uint32_t made_n, made_cap;
	struct verdict_wait *wait;
	uint32_t wait_n, wait_cap;
	uint64_t said;	       /* objections that were given to the engine */
	uint64_t failures;     /* questions that were refused, or may have had no answer in time */
	struct wishes *wishes; /* of the other hooks: wishes.h; owns */
};

struct verdict_wait {
	const struct hook *hook;
	struct hook_token token;
	struct hook_verdict verdict; /* owns its edits */
	uint64_t due_us;
	bool twice;
};

void verdicts_init(struct verdicts *v, struct sim_kernel *k, struct tape *t,
	const struct record *rec, bool busy);
void verdicts_free(struct verdicts *v);
/* The one that the engine asks, or NULL. */
void verdicts_use(struct verdicts *v);
bool verdicts_step(struct verdicts *v); /* answers one that is due; false: none is */
uint64_t verdicts_next_us(const struct verdicts *v);
/* From here on it passes at once, and what waits is answered. */
void verdicts_calm(struct verdicts *v);

#endif
