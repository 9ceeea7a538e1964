/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Both sides of TLS (tls/tls.h) against each other, with somebody between them who changes what
 * crosses. Claimed, for any changes:
 *  - what one side delivers is, octet for octet, the beginning of what the other side was given;
 *  - nothing is delivered before on_open(), behind the end, or behind a failure;
 *  - a failure has a reason, and an end that was said was said by the other side;
 *  - without a change the handshake is done, everything arrives, and both ends are said.
 * Streams are stubs: what ring/stream.c does is tested elsewhere. Randomness and time are the same
 * for each input.
 * Input: octet 0 flags (1: the server hears the material instead of the client, 2: the client hears
 * it instead of the server, 4: pieces are large), octet 1 how many pieces each side says; then
 * changes, four octets each: the flight, the way, where, with what.
 */
#include "tests/fuzz/fuzz.h"

#include "tests/sim/testcert.h"
#include "tls/tls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EPOCH_S 1893456000 /* 2030-01-01 */
#define STEPS_MAX 400

/* ---- the same for each input ---- */

static uint64_t state;

ssize_t getrandom(void *p, size_t n, unsigned flags)
{
	uint8_t *to = p;

	for (size_t i = 0; i < n; i++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		to[i] = (uint8_t)(state >> 56);
	}
	return (ssize_t)n;
}

time_t time(time_t *t)
{
	if (t)
		*t = EPOCH_S;
	return EPOCH_S;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	*tv = (struct timeval){.tv_sec = EPOCH_S};
	return 0;
}

/* ---- stubs of streams ---- */

struct pile {
	uint8_t *p;
	size_t n, at;
};

static void pile_add(struct pile *v, struct span s)
{
	v->p = realloc(v->p, v->n + s.n + 1);
	ASSERT(v->p);
	if (s.n > 0)
		memcpy(v->p + v->n, s.p, s.n);
	v->n += s.n;
}

struct side {
	struct stream st; /* only its address counts */
	struct tls *tls;
	struct stream_filter *f;
	struct pile wire;  /* emitted */
	struct pile said;  /* plain octets that were given to it */
	struct pile heard; /* plain octets that it delivered */
	bool over, finished;
	enum ring_res why;
};

static struct list later;

static struct side *side_of(const struct stream_filter *f)
{
	return CONTAINER_OF(f->s, struct side, st);
}

void filter_emit(struct stream_filter *f, struct span wire)
{
	pile_add(&side_of(f)->wire, wire);
}

void filter_deliver(struct stream_filter *f, struct span plain)
{
	struct side *x = side_of(f);

	ASSERT(f->open && !x->over && plain.n > 0 && plain.n <= FILTER_PIECE_BYTES);
	pile_add(&x->heard, plain);
}

void filter_open(struct stream_filter *f)
{
	ASSERT(!f->open && !side_of(f)->over);
	f->open = true;
}

void filter_over(struct stream_filter *f, enum ring_res why)
{
	struct side *x = side_of(f);

	ASSERT(!x->over && (why == RING_EOF || why == RING_PROTO));
	x->over = true;
	x->why = why;
	ASSERT((why == RING_PROTO) == (tls_why(x->tls) != TLS_WHY_NONE));
	ASSERT(why != RING_EOF || tls_said_end(x->tls));
}

bool filter_listens(const struct stream_filter *f)
{
	return !side_of(f)->over;
}

void streams_defer(struct streams *ss, struct deferred *d)
{
	if (!list_linked(&d->node))
		list_push_back(&later, &d->node);
}

static void run_later(void)
{
	struct list *n;

	while ((n = list_pop_front(&later)) != NULL) {
		struct deferred *d = CONTAINER_OF(n, struct deferred, node);

		d->run(d);
	}
}

/* ---- once ---- */

static struct tls_site *site;
static struct tls_policy *policy;

static const char *path_of(const char *what)
{
	static char paths[2][40];
	static unsigned n;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	bool ok = fd >= 0 && write(fd, what, strlen(what)) == (ssize_t)strlen(what) &&
		  fchmod(fd, 0600) == 0;

	ASSERT(ok && n < 2);
	snprintf(paths[n], sizeof(paths[n]), "/proc/self/fd/%d", fd);
	return paths[n++];
}

static void prepare(void)
{
	struct tls_pair pair;
	struct tls_error e;
	struct tls_policy_conf pc = {.demand = TLS_DEMAND_NONE};
	struct tls_site_conf sc = {.pairs = &pair, .pair_count = 1};
	bool ok;

	if (site)
		return;
	pair.chain = path_of(TEST_CERT);
	pair.key = path_of(TEST_KEY);
	pc.ca = pair.chain;
	ok = tls_library_init(&e);
	ok = ok && (site = tls_site_new(&sc, NULL, NULL, &e)) != NULL;
	ok = ok && (policy = tls_policy_new(&pc, NULL, &e)) != NULL;
	if (!ok)
		fprintf(stderr, "%s\n", e.text);
	ASSERT(ok);
}

/* ---- who is between ---- */

struct change {
	uint8_t flight, how, where, what;
};

struct between {
	struct span changes;
	unsigned flights;
	bool changed;
};

static struct change next_change(struct between *b)
{
	struct change c = {0};

	if (b->changes.n < sizeof(c))
		return c;
	memcpy(&c, b->changes.p, sizeof(c));
	return c;
}

static struct span cut(struct span s, size_t from, size_t to)
{
	return span_of(s.p + from, to - from);
}

/* One change of a flight, into `out`. */
static void change(const struct change *c, struct span s, struct pile *out)
{
	size_t at = s.n * c->where / 256;
	uint8_t one = c->what;

	pile_add(out, cut(s, 0, at));
	switch (c->how % 7) {
	case 0: /* another octet */
		one ^= s.p[at];
		pile_add(out, span_of(&one, 1));
		pile_add(out, cut(s, at + 1, s.n));
		break;
	case 1: /* one more */
		pile_add(out, span_of(&one, 1));
		pile_add(out, cut(s, at, s.n));
		break;
	case 2: /* some fewer */
		pile_add(out, cut(s, MIN_OF(at + 1 + c->what % 32, s.n), s.n));
		break;
	case 3: /* the rest never */
		break;
	case 4: /* all of it twice */
		pile_add(out, cut(s, at, s.n));
		pile_add(out, s);
		break;
	case 5: /* the halves in the other order */
		out->n -= at;
		pile_add(out, cut(s, at, s.n));
		pile_add(out, cut(s, 0, at));
		break;
	default: { /* a record in clear */
		uint8_t rec[] = {(uint8_t)(20 + c->what % 4), 3, 3, 0, 2, c->what, c->where};

		pile_add(out, span_of(rec, sizeof(rec)));
		pile_add(out, cut(s, at, s.n));
	}
	}
}

static void hear(struct side *to, struct span s, size_t piece)
{
	while (s.n > 0 && !to->over) {
		size_t n = MIN_OF(s.n, piece);
		struct span copy = exact_copy(span_of(s.p, n));

		to->f->kind->from_wire(to->f, copy);
		exact_free(copy);
		s = span_drop(s, n);
	}
}

/* What `from` has emitted goes to `to`. True: there was something. */
static bool carry(struct between *b, struct side *from, struct side *to)
{
	struct pile out = {0};
	struct span s = span_of(from->wire.p + from->wire.at, from->wire.n - from->wire.at);
	struct change c = next_change(b);

	if (s.n == 0)
		return false;
	if (b->changes.n >= sizeof(c) && c.flight % 32 == b->flights) {
		change(&c, s, &out);
		b->changed |= out.n != s.n || memcmp(out.p, s.p, s.n) != 0;
		b->changes = span_drop(b->changes, sizeof(c));
	} else {
		pile_add(&out, s);
	}
	b->flights++;
	from->wire.at = from->wire.n;
	hear(to, span_of(out.p, out.n), b->flights % 3 ? SIZE_MAX : 1 + out.n / 3);
	free(out.p);
	return true;
}

/* ---- what the sides do ---- */

static void say(struct side *x, unsigned number, bool large)
{
	static uint8_t octets[FILTER_PIECE_BYTES];
	size_t n = large ? sizeof(octets) - number : 1 + number * 37u % 600;
	struct span piece = span_of(octets, n);

	if (!x->f->open || x->over)
		return;
	for (size_t i = 0; i < n; i++)
		octets[i] = (uint8_t)(i * 7 + number);
	if (x->f->kind->to_wire(x->f, piece))
		pile_add(&x->said, piece);
	else
		ASSERT(tls_why(x->tls) != TLS_WHY_NONE);
}

static void finish(struct side *x)
{
	if (x->finished || (x->over && x->why != RING_EOF))
		return;
	x->finished = true;
	x->f->kind->finish(x->f);
}

static void check_heard(const struct side *to, const struct side *from)
{
	ASSERT(to->heard.n <= from->said.n);
	ASSERT(to->heard.n == 0 || memcmp(to->heard.p, from->said.p, to->heard.n) == 0);
}

static void forget(struct side *x)
{
	x->f->kind->gone(x->f);
	tls_release(x->tls);
	free(x->wire.p);
	free(x->said.p);
	free(x->heard.p);
}

static void begin(struct side *x, struct tls *t)
{
	ASSERT(t);
	x->tls = t;
	x->f = tls_filter(t);
	x->f->s = &x->st;
}

static void talk(struct tls_core *core, struct side *c, struct side *s, struct span in)
{
	uint8_t flags = take_octet(&in), pieces = take_octet(&in) % 8;
	struct between b = {.changes = in};

	run_later();
	if (flags & 3) {
		struct side *to = flags & 1 ? s : c;

		hear(to, in, SIZE_MAX);
		(void)tls_core_turn(core);
		ASSERT(to->heard.n == 0);
		return;
	}
	for (unsigned step = 0, said = 0; step < STEPS_MAX; step++) {
		bool moved = carry(&b, c, s) | carry(&b, s, c);

		(void)tls_core_turn(core);
		run_later();
		if (moved)
			continue;
		if (said == pieces) {
			finish(c);
			finish(s);
		} else {
			said++;
			say(c, said, flags & 4);
			say(s, said + 50, flags & 4);
		}
		if (c->wire.at == c->wire.n && s->wire.at == s->wire.n)
			break;
	}
	check_heard(s, c);
	check_heard(c, s);
	if (b.changed)
		return;
	ASSERT(c->f->open && s->f->open && c->over && s->over);
	ASSERT(c->why == RING_EOF && s->why == RING_EOF);
	ASSERT(c->heard.n == s->said.n && s->heard.n == c->said.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct streams streams;
	struct tls_core core;
	struct side c = {0}, s = {0};
	bool ok;

	prepare();
	state = 1;
	list_init(&later);
	ok = tls_core_init(&core, &streams, 4);
	ASSERT(ok);
	begin(&s, tls_accept(&core, site));
	begin(&c, tls_connect(&core, policy, "mx.example", 0));
	tls_start(c.tls);
	talk(&core, &c, &s, span_of(p, n));
	forget(&c);
	forget(&s);
	tls_core_fini(&core);
	return 0;
}
