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

static const struct hook_class *class_of(const struct conf_hook *conf)
{
	static const struct hook_class *const classes[] = {
		[HOOK_RULES] = &hook_rules_class,
		[HOOK_PLUGIN] = &hook_plugin_class,
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
	set->boxes = calloc(MAX_OF(1u, workers), sizeof(*set->boxes));
	if (!set->hooks || !set->lists || !set->wants || !set->boxes) {
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
	free(set->wants);
	free(set->lists);
	free(set->hooks);
	free(set);
}
