/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the parts of the plugin hook: plugin_load.c brings a shared object in and judges it,
 * plugin_event.c makes what it is shown, plugin_answer.c reads what it says, plugin_help.c keeps
 * the events of plugins that may block for helper threads, plugin.c is the kind of hook and what
 * plugins may call.
 */
#ifndef HOOK_PLUGIN_INT_H
#define HOOK_PLUGIN_INT_H

#include "engine/hook/addr.h"
#include "engine/hook/plugin/helpers.h"
#include "engine/hook/hook_int.h"
#include "engine/hook/ringpost.h"

#define PLUGIN_NAME_BYTES_MAX 64
#define PLUGIN_COUNTER_BYTES 32

struct plugin_counter {
	char name[PLUGIN_COUNTER_BYTES];
	uint64_t n; /* atomic */
};

struct plugin {
	struct hook *hook;
	void *object; /* of dlopen() */
	int fd;	      /* of the file; open as long as the object is there */
	const struct ringpost_plugin *says;
	struct ringpost_host host; /* its handle is this struct */
	void *self;		   /* the plugin's own */
	bool opening;		   /* inside its open() */
	uint32_t counter_count;
	struct plugin_counter counters[RINGPOST_COUNTERS_MAX];
	struct helpers_user helped; /* its pool is NULL: events come on the workers' threads */
	uint64_t quiet_until_ms;    /* atomic: no complaint of a helper thread before */
	uint32_t leaving; /* atomic: sessions that are over and have news on helper threads still */
};

/* Opens and checks the file, loads it, finds and checks its descriptor. False with the reason;
 * nothing is left open then. */
bool plugin_load(struct plugin *p, const char *file, char *why, size_t why_max) MUST_USE;
void plugin_unload(struct plugin *p);

/* ---- calling it ---- */

/* The event() that a thread is inside of. */
struct plugin_run {
	struct plugin *plugin;
	const struct hook_ask *ask; /* NULL on a helper thread */
	bool question, suspended;
	struct ringpost_token token; /* on a helper thread: known from the start */
};
/* Any thread. *answer is set up here. */
uint32_t plugin_run(
	struct plugin_run *r, const struct ringpost_event *ev, struct ringpost_answer *answer);

struct ringpost_token plugin_token(const struct hook_token *t, enum hook_point point);
/* False: it is not one of ours. */
bool plugin_token_read(
	const struct ringpost_token *from, struct hook_token *t, enum hook_point *point);

/* ---- what it is shown ---- */

#define PLUGIN_CLIENT_BYTES HOOK_ADDR_BYTES
/* As hook_addr_text(), and "unix:". */
size_t plugin_client_text(const struct ring_addr *a, char out[PLUGIN_CLIENT_BYTES]);

struct plugin_texts {
	char client[PLUGIN_CLIENT_BYTES], server[PLUGIN_CLIENT_BYTES];
};
/* All but `user`. Its spans live as long as those of the event that is asked about, and `t`. */
void plugin_event(struct ringpost_event *ev, const struct hook_ask *ask, struct plugin_texts *t);
/* Octets of all its spans. */
size_t plugin_event_octets(const struct ringpost_event *ev);
/* Copies them to `to` and has the spans point there; NULL: they become empty. */
void plugin_event_keep(struct ringpost_event *ev, char *to);

/* ---- what it says ---- */

enum plugin_said {
	PLUGIN_SAID, /* *v has it, edits included */
	PLUGIN_NONE, /* it is none that decides */
	PLUGIN_WRONG /* changes that are not well-formed; no memory for them */
};
/* `answer` may be NULL, or smaller than ours, as its size says. */
enum plugin_said plugin_verdict(uint32_t verdict, const struct ringpost_answer *answer,
	enum hook_point point, struct hook_verdict *v);

/* ---- on helper threads ---- */

/* Has the process's pool made unless it is there. False: no memory. */
bool plugin_help_open(struct plugin *p) MUST_USE;
/* Behind the plugin's own close(). */
void plugin_help_close(struct plugin *p);
enum hook_reach plugin_help_ask(
	struct plugin *p, const struct hook_ask *ask, struct hook_verdict *v);
void plugin_help_tell(struct plugin *p, const struct hook_ask *ask);
void plugin_help_forget(void *own);
void plugin_help_leave(void *own);

#endif
