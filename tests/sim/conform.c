/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The far side of the conformance scripts on the simulated kernel. See conform.h.
 *
 * Each script runs in worlds of its own, with all features, with none, and without faults: once
 * with the dull choice everywhere, then with the order of events left to chance, over loopback as
 * on the real kernel, and over a network. What a script expects holds in any order. The one that
 * wants accepting to fail has that fault and a tape that always strikes.
 *
 * Failure modes: as in ring/probe.h. A ring that cannot be closed stays behind with its kernel.
 */
#include "tests/sim/conform.h"

#include "ring/listen.h"
#include "ring/probe.h"
#include "tests/sim/kernel.h"

#define SEEDS 8u /* besides the dull choice */
#define ROOMY_BYTES (256u << 10)
#define SMALL_BYTES (64u << 10)
#define TIGHT_BYTES (512u << 10) /* takes a registered buffer; nothing is read */
#define FIRST_US 1000000u
#define DIRECTORY "/spool"

/* Strikes at any rate above 3, and is the first of 2, 3, 4, 6, 7, 9 or 12 alternatives. */
#define STRIKE 252
#define STRIKES 4096u

struct fake {
	struct sim_kernel *k; /* NULL between scripts */
	struct tape tape;
	struct record rec;
	uint32_t seed; /* 0 = the dull choice */
	uint32_t clients;
};

enum { SERVER = 1, LISTENER = 1 };

static void tape_that_strikes(struct tape *t)
{
	uint8_t octets[STRIKES];

	memset(octets, STRIKE, sizeof(octets));
	tape_from_bytes(t, octets, sizeof(octets));
}

/* Every second world: octets arrive in pieces, a reset may destroy what was not read. */
static bool over_network(const struct fake *f)
{
	return f->seed > 0 && f->seed % 2 == 0;
}

static bool fake_begin(void *arg, const struct probe_world *w)
{
	static const uint32_t bytes[] = {[PROBE_ROOMY] = ROOMY_BYTES,
		[PROBE_SMALL] = SMALL_BYTES,
		[PROBE_TIGHT] = TIGHT_BYTES};
	struct sim_kernel_conf c = {
		.features = UINT32_MAX,
		.send_queue_bytes = bytes[w->room],
		.start_us = FIRST_US,
		.directory = DIRECTORY,
	};
	struct fake *f = arg;

	c.loopback = !over_network(f);
	if (w->few_files)
		tape_that_strikes(&f->tape);
	else if (f->seed == 0)
		tape_from_bytes(&f->tape, "", 0);
	else
		tape_from_seed(&f->tape, f->seed);
	if (w->few_files)
		c.rate[FAULT_ACCEPT_FAILS] = UINT8_MAX;
	record_init(&f->rec);
	f->clients = 0;
	f->k = sim_kernel_new(&c, &f->tape, &f->rec);
	sim_kernel_use(f->k);
	return true;
}

static void fake_end(void *arg, bool left)
{
	struct fake *f = arg;

	sim_kernel_use(NULL);
	if (left)
		return;
	sim_kernel_free(f->k);
	record_free(&f->rec);
	tape_free(&f->tape);
	f->k = NULL;
}

static unsigned fake_pairs_max(void *arg)
{
	return UINT32_MAX;
}

static bool fake_listen(void *arg, struct ring_fd *out)
{
	struct fake *f = arg;

	*out = sim_listener(f->k, LISTENER);
	return true;
}

static void fake_unlisten(void *arg, struct ring_fd *fd)
{
	struct fake *f = arg;

	sim_listener_close(f->k, *fd);
	*fd = RING_FD_NONE;
}

static bool address(struct ring_addr *a, unsigned host, unsigned port)
{
	char text[ADDR_TEXT_BYTES];

	snprintf(text, sizeof(text), "192.0.2.%u:%u", host, port);
	return addr_parse(span_str(text), a);
}

static int fake_dial(void *arg, struct ring_fd listener)
{
	struct fake *f = arg;
	struct ring_addr from;

	if (!address(&from, 1, 1024 + f->clients))
		return -1;
	return far_connect(f->k, &from, listener, f->clients++);
}

static bool fake_serve(void *arg, enum probe_server mode, struct ring_addr *at)
{
	static const enum far_dial modes[] = {[PROBE_ANSWERS] = FAR_ANSWERS,
		[PROBE_REFUSES] = FAR_REFUSES,
		[PROBE_HANGS] = FAR_HANGS};
	struct fake *f = arg;

	if (!address(at, 2, 25))
		return false;
	far_listen(f->k, at, SERVER);
	far_dial_mode(f->k, SERVER, modes[mode]);
	return true;
}

static int fake_answer(void *arg)
{
	struct fake *f = arg;

	return far_accept(f->k, SERVER);
}

static size_t fake_send(void *arg, int far, const void *p, size_t n)
{
	struct fake *f = arg;

	return far_send(f->k, far, p, n);
}

static size_t fake_recv(void *arg, int far, void *p, size_t n, enum probe_sight *sight)
{
	struct fake *f = arg;
	size_t k = far_recv(f->k, far, p, n);

	if (k == 0 && far_dead(f->k, far))
		*sight = PROBE_SAW_RESET;
	else if (k == 0 && far_eof(f->k, far))
		*sight = PROBE_SAW_EOF;
	return k;
}

static void fake_shut(void *arg, int far)
{
	struct fake *f = arg;

	far_shut(f->k, far);
}

static void fake_close(void *arg, int far)
{
	struct fake *f = arg;

	far_close(f->k, far);
	far_free(f->k, far);
}

static void fake_reset(void *arg, int far)
{
	struct fake *f = arg;

	far_reset(f->k, far);
	far_free(f->k, far);
}

/* The fault is there from the start; nothing is accepted before. */
static void fake_few_files(void *arg, bool few)
{
	struct fake *f = arg;

	if (!few)
		sim_kernel_calm(f->k);
}

static const struct probe_far fake_far = {
	.begin = fake_begin,
	.end = fake_end,
	.pairs_max = fake_pairs_max,
	.listen = fake_listen,
	.unlisten = fake_unlisten,
	.dial = fake_dial,
	.serve = fake_serve,
	.answer = fake_answer,
	.send = fake_send,
	.recv = fake_recv,
	.shut = fake_shut,
	.close = fake_close,
	.reset = fake_reset,
	.directory = DIRECTORY,
	.few_files = fake_few_files,
};

/* What chance may make of a script over a network, besides what it expects: what the simulated
 * kernel does and Linux does not. Other systems throw away what was not read when a reset comes;
 * completions may come in small numbers. */
static const struct {
	const char *name, *seen;
} liberties[] = {
	{"recv-data-reset", "recv ECONNRESET end"},
	{"send-closed", "send 10; send ECONNRESET; recv EOF end"},
	{"cq-overflow", "0 without their octets; no overflow"},
};

static bool is_liberty(const struct probe_script *s, const char *seen)
{
	for (size_t i = 0; i < ARRAY_LEN(liberties); i++)
		if (strcmp(liberties[i].name, s->name) == 0 && strcmp(liberties[i].seen, seen) == 0)
			return true;
	return false;
}

static bool holds(const struct probe_script *s, const struct fake *f, uint32_t features_off,
	const struct probe_result *res)
{
	if (res->verdict == PROBE_SKIPPED)
		return (s->needs & features_off) != 0;
	return res->verdict == PROBE_PASSED || (over_network(f) && is_liberty(s, res->seen));
}

/* In all worlds, with all features and with none; what differs first is printed. */
static bool conforms(const struct probe_script *s, FILE *out)
{
	static const uint32_t offs[] = {0, UINT32_MAX};
	struct probe_result res;
	struct fake f = {0};
	struct probe_far far = fake_far;

	far.arg = &f;
	for (f.seed = 0; f.seed <= SEEDS; f.seed++) {
		for (size_t i = 0; i < ARRAY_LEN(offs); i++) {
			probe_run(s, &far, offs[i], &res);
			if (holds(s, &f, offs[i], &res))
				continue;
			fprintf(out, "# %s, seed %u%s\n#   expected %s\n#   seen     %s\n", s->name,
				f.seed, offs[i] ? ", no features" : "", s->expect, res.seen);
			return false;
		}
	}
	return true;
}

void sim_conform_each(void *arg, void (*tell)(void *arg, bool ok, const char *name))
{
	const struct probe_script *s;
	char name[128];

	for (size_t i = 0; (s = probe_script(i)) != NULL; i++) {
		snprintf(name, sizeof(name), "conformance: %s", s->name);
		tell(arg, conforms(s, stdout), name);
	}
}

int sim_conform(FILE *out)
{
	const struct probe_script *s;
	int failed = 0, run = 0;

	for (; (s = probe_script((size_t)run)) != NULL; run++)
		failed += !conforms(s, out);
	fprintf(out, "%d conformance scripts, %d failed\n", run, failed);
	return failed;
}
