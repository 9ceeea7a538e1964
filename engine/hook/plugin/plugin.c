/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hook that is a shared object: the octets of ringpost.h on one side, struct hook_ask on the
 * other. What is behind event() is somebody else's code in our process: it is believed about
 * nothing that can be checked here (verdicts, codes, texts, tokens), and it can crash us.
 *
 * Failure modes: no room for the sessions' pointers or for another open question, a verdict that is
 * none, changes that cannot be: as if the plugin had not answered (`on-failure`), and a line in the
 * log; an event that takes long: counted, and a line in the log.
 */
#include "engine/hook/plugin/plugin_int.h"

#include "engine/hook/clock.h"
#include "engine/smtp/octets.h"

static _Thread_local struct plugin_run *running;

/* ---- complaints ---- */

static void complain(const struct plugin_run *r, const char *text, uint64_t number)
{
	char line[96];

	snprintf(line, sizeof(line), "plugin %s: %s %llu", r->plugin->says->name, text,
		(unsigned long long)number);
	hook_complain(r->ask->core, r->plugin->hook, r->ask->ev->point, line);
}

static void judge_time(const struct plugin_run *r, uint64_t begun_ms)
{
	uint64_t took_ms = hook_overrun_ms(begun_ms, hook_clock_ms());

	if (LIKELY(took_ms == 0))
		return;
	STAT_INC(r->ask->core->stats, hook_overruns);
	complain(r, "held up a worker, milliseconds:", took_ms);
}

/* ---- events ---- */

uint32_t plugin_run(
	struct plugin_run *r, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	uint32_t verdict;

	*answer = (struct ringpost_answer){.size = sizeof(*answer)};
	running = r;
	verdict = r->plugin->says->event(r->plugin->self, ev, answer);
	running = NULL;
	answer->size = sizeof(*answer);
	return verdict;
}

/* On this thread. False when there is no room for `user`. */
static bool call_event(struct plugin_run *r, struct ringpost_answer *answer, uint32_t *verdict)
{
	struct plugin_texts texts;
	struct ringpost_event ev;
	uint64_t begun_ms;

	plugin_event(&ev, r->ask, &texts);
	ev.user = hook_own(r->plugin->hook, r->ask);
	if (!ev.user)
		return false;
	begun_ms = hook_clock_ms();
	*verdict = plugin_run(r, &ev, answer);
	judge_time(r, begun_ms);
	return true;
}

static enum hook_reach plugin_ask(
	struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	struct plugin_run r = {.plugin = h->self, .ask = ask, .question = true};
	struct ringpost_answer answer;
	uint32_t verdict = RINGPOST_PASS;

	if (r.plugin->helped.pool)
		return plugin_help_ask(r.plugin, ask, v);
	if (!call_event(&r, &answer, &verdict))
		return REACH_FAILED;
	if (verdict == RINGPOST_PENDING && r.suspended)
		return REACH_PENDING;
	if (r.suspended)
		hook_resume(ask);
	switch (plugin_verdict(verdict, &answer, ask->ev->point, v)) {
	case PLUGIN_SAID:
		return REACH_ANSWERED;
	case PLUGIN_NONE:
		complain(&r, "what it returned is no verdict here:", verdict);
		break;
	case PLUGIN_WRONG:
		complain(&r, "its changes are not well-formed, or too many:", answer.change_count);
		break;
	}
	return REACH_FAILED;
}

static void plugin_tell(struct hook *h, const struct hook_ask *ask)
{
	struct plugin_run r = {.plugin = h->self, .ask = ask};
	struct ringpost_answer answer;
	uint32_t ignored;

	if (r.plugin->helped.pool)
		plugin_help_tell(r.plugin, ask);
	else
		(void)call_event(&r, &answer, &ignored);
}

/* ---- tokens ---- */

/* The last octet tells a token of ours from {0, 0} and most that is made up. */
#define TOKEN_TAG 0x52u

struct ringpost_token plugin_token(const struct hook_token *t, enum hook_point point)
{
	return (struct ringpost_token){(uint64_t)t->worker << 32 | t->slot,
		(uint64_t)point << 40 | (uint64_t)t->generation << 8 | TOKEN_TAG};
}

bool plugin_token_read(
	const struct ringpost_token *from, struct hook_token *t, enum hook_point *point)
{
	*t = (struct hook_token){
		(uint32_t)(from->a >> 32), (uint32_t)from->a, (uint32_t)(from->b >> 8)};
	*point = (enum hook_point)(from->b >> 40 & 0xff);
	return (from->b & 0xff) == TOKEN_TAG && from->b >> 40 < HOOK_QUESTIONS;
}

/* ---- what a plugin may call ---- */

static struct ringpost_token host_suspend(void *handle, const struct ringpost_event *ev)
{
	struct plugin_run *r = running;
	struct hook_token t;

	/* Outside event(), of another plugin's, or where nobody waits. */
	if (!r || r->plugin != handle || !r->question)
		return (struct ringpost_token){0, 0};
	if (r->ask && !r->suspended) {
		if (!hook_suspend(r->plugin->hook, r->ask, &t))
			return (struct ringpost_token){0, 0};
		r->token = plugin_token(&t, r->ask->ev->point);
	}
	r->suspended = true;
	return r->token;
}

static int host_answer(void *handle, struct ringpost_token token, uint32_t verdict,
	const struct ringpost_answer *answer)
{
	const struct plugin *p = handle;
	struct hook_verdict v = {0};
	struct hook_token t;
	enum hook_point point;
	enum hook_carried res;

	if (!plugin_token_read(&token, &t, &point))
		return -1;
	switch (plugin_verdict(verdict, answer, point, &v)) {
	case PLUGIN_SAID:
		res = hook_answer(p->hook, &t, &v);
		break;
	case PLUGIN_WRONG:
		hook_log(p->hook, RINGPOST_LOG_WARN,
			"what answer() is to change is not well-formed, or too much");
		res = hook_answer(p->hook, &t, NULL);
		break;
	default:
		return -1;
	}
	if (res != CARRIED)
		hook_edits_free(v.edits);
	return res == CARRIED ? 0 : res == CARRIED_VOID ? -1 : -2;
}

static void host_log(void *handle, int level, const char *text)
{
	const struct plugin *p = handle;

	if (text)
		hook_log(p->hook, level, text);
}

static bool counter_name_ok(const char *name)
{
	/* What the record has already. */
	static const char *const taken[] = {"ts", "ev", "level", "hook", "truncated"};
	size_t n = name ? strnlen(name, PLUGIN_COUNTER_BYTES) : 0;

	if (n == 0 || n == PLUGIN_COUNTER_BYTES)
		return false;
	for (size_t i = 0; i < n; i++)
		if (name[i] != '_' &&
			(name[i] == '-' || !octet_is((uint8_t)name[i], OCTET_KEYWORD)))
			return false;
	for (size_t i = 0; i < ARRAY_LEN(taken); i++)
		if (strcmp(name, taken[i]) == 0)
			return false;
	return true;
}

static int host_counter(void *handle, const char *name)
{
	struct plugin *p = handle;

	if (!p->opening || p->counter_count == RINGPOST_COUNTERS_MAX || !counter_name_ok(name))
		return -1;
	for (uint32_t i = 0; i < p->counter_count; i++)
		if (strcmp(p->counters[i].name, name) == 0)
			return -1;
	snprintf(p->counters[p->counter_count].name, PLUGIN_COUNTER_BYTES, "%s", name);
	return (int)p->counter_count++;
}

static void host_count(void *handle, int index, uint64_t n)
{
	struct plugin *p = handle;

	if (index >= 0 && (uint32_t)index < p->counter_count)
		__atomic_fetch_add(&p->counters[index].n, n, __ATOMIC_RELAXED);
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
	int res;

	p->opening = true;
	res = p->says->open(&p->host, (const struct ringpost_option *)(const void *)conf->options,
		conf->option_count, &p->self, error, sizeof(error));
	p->opening = false;
	if (res == 0)
		return true;
	error[sizeof(error) - 1] = '\0';
	for (char *c = error; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	snprintf(why, why_max, "plugin %s: %s", p->says->name,
		error[0] ? error : "its open() failed and does not say why");
	return false;
}

static bool open_plugin(struct plugin *p, char *why, size_t why_max)
{
	if (!plugin_load(p, p->hook->conf->file, why, why_max))
		return false;
	if ((p->says->flags & RINGPOST_MAY_BLOCK) && !plugin_help_open(p)) {
		snprintf(why, why_max, "no memory");
		plugin_unload(p);
		return false;
	}
	if (open_instance(p, why, why_max))
		return true;
	plugin_help_close(p);
	plugin_unload(p);
	return false;
}

/* A transaction's news wait in memory: who may block is asked whether one may begin. */
static uint32_t wants_of(const struct plugin *p)
{
	uint32_t events = p->says->events;

	if (p->helped.pool && (events & RINGPOST_ON(RINGPOST_TRANSACTION)))
		events |= RINGPOST_ON(RINGPOST_MAIL);
	return events;
}

static bool plugin_open(struct hook *h, char *why, size_t why_max)
{
	struct plugin *p = calloc(1, sizeof(*p));

	if (!p) {
		snprintf(why, why_max, "no memory");
		return false;
	}
	p->hook = h;
	p->host = (struct ringpost_host){.abi = RINGPOST_ABI,
		.size = sizeof(p->host),
		.workers = h->set->workers,
		.name = h->conf->name,
		.handle = p,
		.suspend = host_suspend,
		.answer = host_answer,
		.log = host_log,
		.counter = host_counter,
		.count = host_count};
	if (!open_plugin(p, why, why_max)) {
		free(p);
		return false;
	}
	h->self = p;
	h->wants = wants_of(p);
	return true;
}

static void plugin_close(struct hook *h)
{
	struct plugin *p = h->self;

	plugin_help_close(p);
	if (p->says->close)
		p->says->close(p->self);
	plugin_unload(p);
	free(p);
	h->self = NULL;
}

/* ---- helper threads ---- */

static bool plugin_begin(struct hook *h, struct hook_core *c, void **share)
{
	struct plugin *p = h->self;

	return !p->helped.pool || helpers_start(p->helped.pool);
}

static bool plugin_settle(struct hook *h, uint32_t wait_ms)
{
	struct plugin *p = h->self;

	return !p->helped.pool || helpers_settle(&p->helped, wait_ms);
}

static void plugin_forget(struct hook *h, struct hook_call *call)
{
	const struct plugin *p = h->self;

	if (p->helped.pool)
		plugin_help_forget(call->seat->own[h->index]);
}

static void plugin_leave(struct hook *h, struct hook_core *c, void *own)
{
	const struct plugin *p = h->self;

	/* Else it is what the plugin left there, and none of ours. */
	if (p->helped.pool)
		plugin_help_leave(own);
}

static const char *plugin_counter(const struct hook *h, uint32_t index, uint64_t *value)
{
	const struct plugin *p = h->self;

	if (index >= p->counter_count)
		return NULL;
	*value = __atomic_load_n(&p->counters[index].n, __ATOMIC_RELAXED);
	return p->counters[index].name;
}

const struct hook_class hook_plugin_class = {.may_wait = true,
	.open = plugin_open,
	.close = plugin_close,
	.settle = plugin_settle,
	.counter = plugin_counter,
	.begin = plugin_begin, /* leaves no share */
	.ask = plugin_ask,
	.tell = plugin_tell,
	.forget = plugin_forget,
	.leave = plugin_leave};
