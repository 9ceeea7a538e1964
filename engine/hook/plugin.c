/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hook that is a shared object: the octets of ringpost.h on one side, struct hook_ask on the
 * other. What is behind event() is somebody else's code in our process: it is believed about
 * nothing that can be checked here (verdicts, codes, texts, tokens), and it can crash us.
 *
 * Failure modes: no room for the sessions' pointers or for another open question, a verdict that is
 * none: as if the plugin had not answered (`on-failure`), and a line in the log; an event that
 * takes long: counted, and a line in the log.
 */
#include "engine/hook/plugin_int.h"

#include <netinet/in.h>
#include <time.h>

#define OVERRUN_MS 10

/* The events of the two headers are the same numbers, and the descriptor's mask is hook.wants. */
#define SAME(point, kind) _Static_assert((int)(point) == (int)(kind), #point)
SAME(HOOK_CONNECT, RINGPOST_CONNECT);
SAME(HOOK_EHLO, RINGPOST_EHLO);
SAME(HOOK_AUTH, RINGPOST_AUTH);
SAME(HOOK_MAIL, RINGPOST_MAIL);
SAME(HOOK_RCPT, RINGPOST_RCPT);
SAME(HOOK_DATA, RINGPOST_DATA);
SAME(HOOK_END_OF_DATA, RINGPOST_END_OF_DATA);
SAME(HOOK_STARTTLS, RINGPOST_STARTTLS);
SAME(HOOK_RESET, RINGPOST_RESET);
SAME(HOOK_TRANSACTION, RINGPOST_TRANSACTION);
SAME(HOOK_CLOSE, RINGPOST_CLOSE);
SAME(HOOK_ACCEPTED, RINGPOST_ACCEPTED);
SAME(HOOK_REJECTED, RINGPOST_REJECTED);
SAME(HOOK_ABORTED, RINGPOST_ABORTED);
SAME(HOOK_IN_DOUBT, RINGPOST_IN_DOUBT);
SAME(HOOK_CLIENT_GONE, RINGPOST_CLIENT_GONE);
SAME(RINGPOST_ON_ALL, (1u << HOOK_POINT_COUNT) - 1);

/* The event() that this thread is inside of. */
struct running {
	struct plugin *plugin;
	const struct hook_ask *ask;
	bool question, suspended;
	struct ringpost_token token;
};
static _Thread_local struct running *running;

/* ---- clock ---- */

/* Good to one tick of the kernel, and a seventh of the price of the exact one: an event that
 * computes a little would cost less than two exact readings around it. */
static uint64_t coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t tick_ms(void)
{
	struct timespec t = {0};

	clock_getres(CLOCK_MONOTONIC_COARSE, &t);
	return ((uint64_t)t.tv_nsec + 999999) / 1000000;
}

/* ---- the client's address ---- */

static char *put_decimal(char *to, unsigned octet)
{
	if (octet >= 100)
		*to++ = (char)('0' + octet / 100);
	if (octet >= 10)
		*to++ = (char)('0' + octet / 10 % 10);
	*to++ = (char)('0' + octet % 10);
	return to;
}

static char *put_v4(char *to, const uint8_t *a)
{
	for (unsigned i = 0; i < 4; i++) {
		if (i > 0)
			*to++ = '.';
		to = put_decimal(to, a[i]);
	}
	return to;
}

static char *put_hex(char *to, unsigned group)
{
	static const char digits[] = "0123456789abcdef";
	int shift = 12;

	while (shift > 0 && group >> shift == 0)
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		*to++ = digits[group >> shift & 15];
	return to;
}

/* The longest run of zero groups, the first of equal ones, two at least. */
static void find_zeros(const uint8_t *a, unsigned *begin, unsigned *end)
{
	*begin = *end = 8;
	for (unsigned i = 0, run; i < 8; i += run + 1) {
		for (run = 0; i + run < 8 && !(a[2 * (i + run)] | a[2 * (i + run) + 1]); run++)
			;
		if (run >= 2 && run > *end - *begin) {
			*begin = i;
			*end = i + run;
		}
	}
}

static char *put_v6(char *to, const uint8_t *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	unsigned begin, end;

	if (memcmp(a, mapped, sizeof(mapped)) == 0)
		return put_v4(to, a + 12);
	find_zeros(a, &begin, &end);
	for (unsigned i = 0; i < 8; i++) {
		if (i == begin) {
			*to++ = ':';
			*to++ = ':';
			i = end;
		} else if (i > 0) {
			*to++ = ':';
		}
		if (i < 8)
			to = put_hex(to, (unsigned)a[2 * i] << 8 | a[2 * i + 1]);
	}
	return to;
}

size_t plugin_client_text(const struct ring_addr *a, char out[PLUGIN_CLIENT_BYTES])
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&a->ss;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&a->ss;

	switch (a->sa.sa_family) {
	case AF_INET:
		return (size_t)(put_v4(out, (const uint8_t *)&v4->sin_addr) - out);
	case AF_INET6:
		return (size_t)(put_v6(out, v6->sin6_addr.s6_addr) - out);
	case AF_UNIX:
		memcpy(out, "unix:", 5);
		return 5;
	}
	return 0;
}

static uint16_t client_port(const struct ring_addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohs(((const struct sockaddr_in *)(const void *)&a->ss)->sin_port);
	case AF_INET6:
		return ntohs(((const struct sockaddr_in6 *)(const void *)&a->ss)->sin6_port);
	}
	return 0;
}

/* ---- complaints ---- */

static void complain(const struct running *r, const char *text, uint64_t number)
{
	char line[96];

	snprintf(line, sizeof(line), "plugin %s: %s %llu", r->plugin->says->name, text,
		(unsigned long long)number);
	hook_complain(r->ask->core, r->plugin->hook, r->ask->ev->point, line);
}

/* Both readings may be a tick behind: nobody is blamed for less than OVERRUN_MS, who takes two
 * ticks more is always. */
static void judge_time(const struct running *r, uint64_t from_ms, uint64_t to_ms)
{
	uint64_t took_ms = to_ms - from_ms;

	if (LIKELY(took_ms < OVERRUN_MS) || took_ms < OVERRUN_MS + tick_ms())
		return;
	STAT_INC(r->ask->core->stats, hook_overruns);
	complain(r, "held up a worker, milliseconds:", took_ms);
}

/* ---- events ---- */

static struct ringpost_span out_span(struct span s)
{
	return (struct ringpost_span){(const char *)s.p, s.n};
}

/* This hook's pointer of the session; NULL: no room. */
static void **user_of(const struct hook *h, const struct hook_ask *ask)
{
	struct hook_seat *seat = ask->seat;
	struct hook_core *c = ask->core;

	if (!seat->user) {
		seat->user = slab_get(&c->users);
		if (!seat->user)
			return NULL;
		memset(seat->user, 0, c->set->hook_count * sizeof(*seat->user));
	}
	return &seat->user[h->index];
}

static struct span params_of(struct span s)
{
	while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = span_drop(s, 1);
	while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* False when there is no room for `user`. */
static bool call_event(struct running *r, struct ringpost_answer *answer, uint32_t *verdict)
{
	const struct hook_ask *ask = r->ask;
	const struct hook_event *from = ask->ev;
	struct plugin *p = r->plugin;
	char client[PLUGIN_CLIENT_BYTES];
	struct ringpost_event ev = {.size = sizeof(ev),
		.kind = (uint32_t)from->point,
		.worker = ask->core->worker,
		.recipients = from->recipients,
		.session = from->sid,
		.transaction = from->tid,
		.listener = out_span(span_str(ask->lis->name)),
		.client = {client, plugin_client_text(from->client, client)},
		.helo = out_span(from->helo),
		.mechanism = out_span(from->mechanism),
		.bytes = from->bytes,
		.result = from->outcome,
		.code = from->code,
		.client_port = client_port(from->client),
		.user = user_of(p->hook, ask)};
	uint64_t begun_ms;

	if (!ev.user)
		return false;
	if (from->path) {
		ev.address = out_span(from->path->mailbox);
		ev.params = out_span(params_of(from->path->params));
	}
	running = r;
	begun_ms = coarse_ms();
	*verdict = p->says->event(p->self, &ev, answer);
	judge_time(r, begun_ms, coarse_ms());
	running = NULL;
	return true;
}

/* False: it is none that decides. */
static bool take_verdict(
	uint32_t verdict, const struct ringpost_answer *answer, struct hook_verdict *v)
{
	switch (verdict) {
	case RINGPOST_PASS:
		v->kind = VERDICT_PASS;
		return true;
	case RINGPOST_REJECT:
		v->kind = VERDICT_REJECT;
		break;
	case RINGPOST_TEMPFAIL:
		v->kind = VERDICT_TEMPFAIL;
		break;
	case RINGPOST_DROP:
		v->kind = VERDICT_DROP;
		break;
	default:
		return false;
	}
	/* The code of a drop is 421 and nothing else. */
	if (answer)
		hook_verdict_words(v, v->kind == VERDICT_DROP ? 0 : answer->code, answer->enhanced,
			answer->text);
	return true;
}

static enum hook_reach plugin_ask(
	struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	struct running r = {.plugin = h->self, .ask = ask, .question = true};
	struct ringpost_answer answer = {.size = sizeof(answer)};
	uint32_t verdict = RINGPOST_PASS;

	if (!call_event(&r, &answer, &verdict))
		return REACH_FAILED;
	if (verdict == RINGPOST_PENDING && r.suspended)
		return REACH_PENDING;
	if (r.suspended)
		hook_resume(ask);
	if (take_verdict(verdict, &answer, v))
		return REACH_ANSWERED;
	complain(&r, "what it returned is no verdict here:", verdict);
	return REACH_FAILED;
}

static void plugin_tell(struct hook *h, const struct hook_ask *ask)
{
	struct running r = {.plugin = h->self, .ask = ask};
	struct ringpost_answer answer = {.size = sizeof(answer)};
	uint32_t ignored;

	(void)call_event(&r, &answer, &ignored);
}

/* ---- what a plugin may call ---- */

/* The octet behind the generation tells a token of ours from {0, 0} and most that is made up. */
#define TOKEN_TAG 0x52u

static struct ringpost_token host_suspend(void *handle, const struct ringpost_event *ev)
{
	struct running *r = running;
	struct hook_token t;

	/* Outside event(), of another plugin's, or where nobody waits. */
	if (!r || r->plugin != handle || !r->question)
		return (struct ringpost_token){0, 0};
	if (!r->suspended && hook_suspend(r->plugin->hook, r->ask, &t)) {
		r->suspended = true;
		r->token = (struct ringpost_token){
			(uint64_t)t.worker << 32 | t.slot, (uint64_t)t.generation << 8 | TOKEN_TAG};
	}
	return r->token;
}

static int host_answer(void *handle, struct ringpost_token token, uint32_t verdict,
	const struct ringpost_answer *answer)
{
	const struct plugin *p = handle;
	const struct hook_token t = {
		(uint32_t)(token.a >> 32), (uint32_t)token.a, (uint32_t)(token.b >> 8)};
	struct hook_verdict v = {0};

	if ((token.b & 0xff) != TOKEN_TAG || token.b >> 40 != 0 ||
		(answer && answer->size < sizeof(*answer)) || !take_verdict(verdict, answer, &v))
		return -1;
	switch (hook_answer(p->hook, &t, &v)) {
	case CARRIED:
		return 0;
	case CARRIED_VOID:
		return -1;
	case CARRIED_NOT:
		return -2;
	}
	ASSERT(false);
}

static void host_log(void *handle, int level, const char *text)
{
	const struct plugin *p = handle;

	if (text)
		hook_log(p->hook, level, text);
}

/* ---- the kind of hook ---- */

/* Of conf_option.name and value, as the plugin's header has them. */
_Static_assert(
	sizeof(struct ringpost_option) == sizeof(struct conf_option) &&
		offsetof(struct ringpost_option, value) == offsetof(struct conf_option, value),
	"options are handed over as they are");

static bool open_instance(struct plugin *p, char *why, size_t why_max)
{
	const struct conf_hook *conf = p->hook->conf;
	char error[256] = "";

	if (p->says->open(&p->host, (const struct ringpost_option *)(const void *)conf->options,
		    conf->option_count, &p->self, error, sizeof(error)) == 0)
		return true;
	error[sizeof(error) - 1] = '\0';
	for (char *c = error; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	snprintf(why, why_max, "plugin %s: %s", p->says->name,
		error[0] ? error : "its open() failed and does not say why");
	return false;
}

static bool plugin_open(struct hook *h, char *why, size_t why_max)
{
	uint32_t workers = h->set->workers;
	struct plugin *p = calloc(1, sizeof(*p));

	if (!p) {
		snprintf(why, why_max, "no memory");
		return false;
	}
	p->hook = h;
	p->host = (struct ringpost_host){.abi = RINGPOST_ABI,
		.size = sizeof(p->host),
		.workers = workers,
		.name = h->conf->name,
		.handle = p,
		.suspend = host_suspend,
		.answer = host_answer,
		.log = host_log};
	if (!plugin_load(p, h->conf->file, why, why_max)) {
		free(p);
		return false;
	}
	if (!open_instance(p, why, why_max)) {
		plugin_unload(p);
		free(p);
		return false;
	}
	h->self = p;
	h->wants = p->says->events;
	return true;
}

static void plugin_close(struct hook *h)
{
	struct plugin *p = h->self;

	if (p->says->close)
		p->says->close(p->self);
	plugin_unload(p);
	free(p);
	h->self = NULL;
}

const struct hook_class hook_plugin_class = {.may_wait = true,
	.open = plugin_open,
	.close = plugin_close,
	.ask = plugin_ask,
	.tell = plugin_tell};
