/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The hooks of a process: opened before anybody is served, closed when nobody is left. A hook that
 * no listener names is opened as well: whoever wrote it wants to know that it works.
 *
 * Failure modes: a hook that cannot be opened is told with its place in the configuration, and the
 * others are tried still, so that one start shows all there is to mend; no memory.
 */
#include "engine/hook/hook_int.h"

#define WHY_MAX 512

/* What conf cannot include. */
#define X(id, number, word)                              \
	_Static_assert((int)CONF_##id == (int)HOOK_##id, \
		"conf.h gives `" word "` the number of another event");
CONF_EVENTS(X)
#undef X

static const struct hook_class *class_of(const struct conf_hook *conf)
{
	static const struct hook_class *const classes[] = {
		[HOOK_RULES] = &hook_rules_class,
		[HOOK_PLUGIN] = &hook_plugin_class,
		[HOOK_POLICY] = &hook_policy_class,
		[HOOK_LUA] = &hook_lua_class,
		[HOOK_MILTER] = &hook_milter_class,
	};

	ASSERT((size_t)conf->type < ARRAY_LEN(classes));
	return classes[conf->type];
}

static bool open_hook(struct hook_set *set, uint32_t index, FILE *err)
{
	const struct conf_hook *conf = &set->conf->hooks[index];
	struct hook *h = &set->hooks[index];
	char why[WHY_MAX] = "";

	*h = (struct hook){.conf = conf, .class = class_of(conf), .set = set, .index = index};
	if (h->class->open(h, why, sizeof(why))) {
		/* A hook of the envelope hears nothing of the message. */
		if (conf->mode == HOOK_STREAM)
			h->wants &= ~(1u << HOOK_END_OF_DATA | 1u << HOOK_BODY);
		set->may_wait |= h->class->may_wait;
		return true;
	}
	fprintf(err, "%s: hook `%s`: %s\n", conf->where, conf->name, why);
	h->class = NULL; /* not to be closed */
	return false;
}

static bool fill_list(struct hook_set *set, const struct conf_listener *lis)
{
	struct hook_list *list = &set->lists[lis->index];

	list->hooks = calloc(MAX_OF(1u, lis->hook_count), sizeof(*list->hooks));
	if (!list->hooks)
		return false;
	for (; list->count < lis->hook_count; list->count++) {
		size_t index = (size_t)(lis->hooks[list->count] - set->conf->hooks);

		ASSERT(index < set->hook_count);
		list->hooks[list->count] = &set->hooks[index];
		set->wants[lis->index] |= set->hooks[index].wants;
		set->modes[lis->index] =
			MAX_OF(set->modes[lis->index], set->hooks[index].conf->mode);
	}
	return true;
}

/* All that can fail for want of memory, but the listeners' arrays. */
static struct hook_set *make_set(const struct conf *c, uint32_t workers)
{
	struct hook_set *set = calloc(1, sizeof(*set));

	if (!set)
		return NULL;
	set->conf = c;
	set->hooks = calloc(MAX_OF(1u, c->hook_count), sizeof(*set->hooks));
	set->lists = calloc(MAX_OF(1u, c->listener_count), sizeof(*set->lists));
	set->wants = calloc(MAX_OF(1u, c->listener_count), sizeof(*set->wants));
	set->modes = calloc(MAX_OF(1u, c->listener_count), sizeof(*set->modes));
	set->boxes = calloc(MAX_OF(1u, workers), sizeof(*set->boxes));
	if (!set->hooks || !set->lists || !set->wants || !set->modes || !set->boxes) {
		hook_set_close(set);
		return NULL;
	}
	set->hook_count = c->hook_count;
	for (; set->workers < workers; set->workers++)
		pthread_mutex_init(&set->boxes[set->workers].lock, NULL);
	return set;
}

struct hook_set *hook_set_open(const struct conf *c, uint32_t workers, FILE *err)
{
	struct hook_set *set = make_set(c, workers);
	bool good = true, memory = set != NULL;

	for (uint32_t i = 0; memory && i < c->hook_count; i++)
		good = open_hook(set, i, err) && good;
	for (uint32_t i = 0; memory && i < c->listener_count; i++)
		memory = fill_list(set, &c->listeners[i]);
	if (!memory)
		fprintf(err, "ringpost: no memory for the hooks\n");
	if (good && memory)
		return set;
	hook_set_close(set);
	return NULL;
}

const char *hook_set_settle(struct hook_set *set, uint32_t wait_ms)
{
	for (uint32_t i = 0; i < set->hook_count; i++) {
		struct hook *h = &set->hooks[i];

		if (h->class->settle && !h->class->settle(h, wait_ms))
			return h->conf->name;
	}
	return NULL;
}

const char *hook_set_counter(
	const struct hook_set *set, uint32_t hook, uint32_t index, uint64_t *value)
{
	const struct hook *h = &set->hooks[hook];

	ASSERT(hook < set->hook_count);
	return h->class->counter ? h->class->counter(h, index, value) : NULL;
}

void hook_set_close(struct hook_set *set)
{
	if (!set)
		return;
	/* The last one first. What their threads still say goes nowhere: the boxes are closed. */
	for (uint32_t i = set->hook_count; i-- > 0;)
		if (set->hooks[i].class)
			set->hooks[i].class->close(&set->hooks[i]);
	for (uint32_t i = 0; set->lists && i < set->conf->listener_count; i++)
		free(set->lists[i].hooks);
	for (uint32_t i = 0; i < set->workers; i++)
		pthread_mutex_destroy(&set->boxes[i].lock);
	free(set->boxes);
	free(set->modes);
	free(set->wants);
	free(set->lists);
	free(set->hooks);
	free(set);
}

/* ---- sizing ---- */

static bool is_named(const struct conf *c, const struct conf_hook *h)
{
	for (uint32_t i = 0; i < c->listener_count; i++)
		for (uint32_t j = 0; j < c->listeners[i].hook_count; j++)
			if (c->listeners[i].hooks[j] == h)
				return true;
	return false;
}

/* A milter serves a session by a connection of its own. */
static uint32_t connections_of(const struct conf_hook *h, uint32_t sessions_max)
{
	switch (h->type) {
	case HOOK_POLICY:
		return h->connections;
	case HOOK_MILTER:
		return MIN_OF(h->connections, sessions_max);
	default:
		return 0;
	}
}

uint32_t hook_connections_max(const struct conf *c, uint32_t sessions_max)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < c->hook_count; i++)
		if (is_named(c, &c->hooks[i]))
			sum += connections_of(&c->hooks[i], sessions_max);
	return sum;
}
