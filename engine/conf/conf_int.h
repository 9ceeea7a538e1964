/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Private to engine/conf: memory, diagnostics, the YAML tree, the schema and the loader.
 * One thread at a time works on one loader; nothing here is on the data path.
 */
#ifndef CONF_CONF_INT_H
#define CONF_CONF_INT_H

#include "engine/conf/conf.h"

#define CONF_FILE_BYTES_MAX (1u << 20)
#define CONF_DEPTH_MAX 16	  /* nested mappings and lists */
#define CONF_NODES_MAX (1u << 18) /* values, aliases counted as often as they are used */
#define CONF_ANCHORS_MAX 256
#define CONF_MAP_KEYS_MAX 2048	    /* of one mapping */
#define CONF_INSERT_BYTES_MAX 65536 /* what one ${file:} or ${env:} may bring */
#define CONF_DIAGS_MAX 1000	    /* printed; more are only counted */
#define CONF_NAME_BYTES_MAX 64
#define CONF_OPTION_BYTES_MAX 4096 /* of one value of `options` */

/* ---- arena.c: everything of one load is freed at once ---- */

struct arena;
struct arena *arena_new(void);
void arena_free(struct arena *a); /* NULL is allowed */
/* Zeroed, aligned for any type. Never NULL: input is bounded, so is memory; see arena.c. */
void *arena_alloc(struct arena *a, size_t n);
char *arena_text(struct arena *a, const char *p, size_t n); /* a copy, NUL-terminated */
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- diag.c: messages with their place ---- */

struct mark { /* from 1; line 0 = the file as a whole */
	uint32_t line, col;
};

struct diag;
struct diags {
	struct arena *tmp; /* borrows until the load is over */
	const char *name;  /* of the file, as messages show it */
	struct span source;
	struct diag *first, *last;
	uint32_t stored, errors, warnings;
};

void diag_error(struct diags *d, struct mark at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diag_warn(struct diags *d, struct mark at, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* By line and column, each once, with the source line and a caret; then the count. */
void diag_print(struct diags *d, FILE *err);
/* Text of an operator or of the environment made safe to show, shortened; lives in `a`. */
const char *text_shown(struct arena *a, struct span s);
bool text_clean(struct span s); /* valid UTF-8 without anything that text_shown() would hide */
bool text_valid(struct span s); /* valid UTF-8 */
/* Octets of the character at p < end, at least 1; malformed UTF-8 goes octet by octet. */
size_t text_char(const uint8_t *p, const uint8_t *end);

/* ---- yaml.c: a document as a tree ---- */

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node;
struct item {
	struct node *key; /* NULL in a list */
	struct node *value;
	struct item *next;
};

struct node {
	enum node_kind kind;
	struct mark at;
	const char *text; /* scalar, expanded; NUL-terminated, holds none */
	size_t len;
	const char *shown; /* as written, for messages: what ${...} brought in may be a secret */
	bool plain;	   /* not quoted */
	bool bad;  /* its expansion failed and was reported: whoever needs the value is silent */
	bool open; /* its end has not been read: an alias to it would be a cycle */
	struct item *first, *last;
	uint32_t count;
	uint32_t weight; /* nodes below and with it, aliases followed */
};

/* NULL: nothing usable, the reasons are in `d`. Smaller mistakes are in `d`, too. */
struct node *yaml_read(struct diags *d, struct span text);
struct item *node_item(const struct node *map, const char *key); /* NULL: not there */
struct node *node_get(const struct node *map, const char *key);	 /* NULL: not there */
bool node_null(const struct node *n); /* nothing written behind the colon, or ~ */

/* expand.c: ${env:NAME}, ${env:NAME:-default}, ${file:PATH}; $${ is a plain ${. NULL after an
 * error. */
const char *conf_expand(struct diags *d, struct mark at, struct span in, size_t *len);

/* suggest.c: the nearest of `words`, or NULL when nothing is near. */
const char *suggest(const char *word, const char *const *words, size_t count);
unsigned edit_distance(const char *a, const char *b);

/* ---- schema.c: the table ---- */

enum scope {
	SCOPE_ROOT,
	SCOPE_LOG,
	SCOPE_LIMITS,
	SCOPE_HOLD,
	SCOPE_HELPERS,
	SCOPE_CERTIFICATE,
	SCOPE_TLS,
	SCOPE_LISTENER,
	SCOPE_STARTTLS,
	SCOPE_LISTENER_TIMEOUTS,
	SCOPE_LISTENER_LIMITS,
	SCOPE_UPSTREAM,
	SCOPE_UPSTREAM_TLS,
	SCOPE_UPSTREAM_TIMEOUTS,
	SCOPE_HOOK,
	SCOPE_HOOK_RULES,
	SCOPE_REPLY,
	SCOPE_HOOK_PLUGIN,
	SCOPE_HOOK_LUA,
	SCOPE_HOOK_POLICY,
	SCOPE_HOOK_MILTER,
	SCOPE_COUNT
};

enum type {
	TYPE_BOOL,
	TYPE_COUNT,
	TYPE_SIZE,
	TYPE_DURATION,
	TYPE_RATE,
	TYPE_WORD,
	TYPE_WORDS,
	TYPE_CPUS,
	TYPE_USER,
	TYPE_LOG_TO,
	TYPE_NETS,
	TYPE_BIND,
	TYPE_SERVERS,
	TYPE_ENDPOINT,
	TYPE_SOURCE,
	TYPE_EXTENSIONS,
	TYPE_HOOKS,
	TYPE_UPSTREAM,
	TYPE_PATTERNS,
	TYPE_NAMES,
	TYPE_CODE,
	TYPE_ENHANCED,
	TYPE_TEXT,
	TYPE_PATH,
	TYPE_FILE,	  /* a path that is written otherwise */
	TYPE_CERTIFICATE, /* a name from `certificates` */
	TYPE_HOST,
	TYPE_PINS,
	TYPE_CIPHERS,
	TYPE_GROUPS,
	TYPE_OPTIONS,
	TYPE_MAP,	   /* keys of the scope `sub`, in the same structure */
	TYPE_NAMED,	   /* name: keys of the scope `sub`, one structure each */
	TYPE_CERTIFICATES, /* the same, or a list of such mappings below each name */
	TYPE_LATER,	   /* not in this version: `text` says so */
	TYPE_KINDS
};

struct word {
	const char *word; /* NULL ends the table */
	int value;
	const char *later; /* not in this version: the message */
};

struct key {
	enum scope scope;
	const char *name;
	enum type type;
	uint32_t off, width; /* of the field in the scope's structure; width 0 = only checked */
	uint32_t off2;	     /* of the count of a list, or of a rate's window */
	const char *def;     /* as an operator would write it; NULL = unset; conf_required */
	uint64_t min, max;   /* of the value; of a list: of its items */
	const char *unit;
	const struct word *words;
	enum scope sub;
	uint32_t size; /* of one structure, TYPE_NAMED */
	const char *text;
};

struct loader;
struct scope_row {
	const char *path; /* "listeners.<name>.limits" */
	const char *gate; /* the key that decides what the others mean: a bad one hides them */
	/* More keys of the mapping that `within` describes, while its gate is the word `when`;
	 * NULL: a mapping of its own. Of such scopes a mapping has one at most. */
	const char *when;
	enum scope within;
	const char *which; /* what that word stands for, for messages about keys of the others */
	/* A scalar in place of the mapping; NULL = not allowed. */
	bool (*scalar)(struct loader *l, void *base, const struct node *n);
	void (*start)(void *base); /* before any key; may be NULL */
};

struct type_row {
	const char *name;    /* in the reference */
	const char *written; /* how it is written, for the reference and for messages */
	bool (*set)(struct loader *l, const struct key *k, void *base, const struct node *n);
	void (*put)(FILE *out, const struct key *k, const void *base, int indent);
};

extern const struct key conf_keys[];
extern const size_t conf_key_count;
extern const struct scope_row conf_scopes[SCOPE_COUNT];
extern const struct type_row conf_types[TYPE_KINDS];
extern const char conf_required[];
const struct key *key_find(enum scope s, const char *name); /* NULL: not there */
bool scope_adds(enum scope s, enum scope to);		    /* one of those with `when` */
/* The one that adds to `s` in this structure, whose gate was set; `s` itself when none does. */
enum scope scope_more(enum scope s, const void *base);

/* ---- load.c ---- */

struct job; /* a mapping that waits to be read: a queue in place of recursion */

struct loader {
	struct diags *d;
	struct arena *tmp;  /* owned by conf_load_text, gone when it returns */
	struct arena *keep; /* the snapshot's */
	struct conf *c;
	const struct node *root;
	struct job *jobs, *last_job;
	struct conf_listener *listeners; /* the arrays of *c, still to be written */
	struct conf_upstream *upstreams;
	struct conf_hook *hooks;
	bool *upstream_used, *hook_used, *certificate_used;
};

/* Reports and returns false. */
bool fail_at(struct loader *l, const struct node *n, const char *fmt, ...) PRINTF_LIKE(3, 4);
void queue_map(struct loader *l, enum scope s, void *base, const struct node *map,
	const struct node *name);
bool set_text(struct loader *l, enum scope s, const char *key, void *base, struct mark at,
	struct span text);
bool name_form(const struct node *n); /* of what operators give a name: listeners, options, ... */

/* ---- value.c, addr.c, lists.c: one setter and its inverse for each type ---- */

#define SETTER(x)                                                                              \
	bool set_##x(struct loader *l, const struct key *k, void *base, const struct node *n); \
	void put_##x(FILE *out, const struct key *k, const void *base, int indent)
SETTER(bool);
SETTER(count);
SETTER(size);
SETTER(duration);
SETTER(rate);
SETTER(word);
SETTER(words);
SETTER(cpus);
SETTER(user);
SETTER(log_to);
SETTER(nets);
SETTER(bind);
SETTER(servers);
SETTER(endpoint);
SETTER(source);
SETTER(extensions);
SETTER(hooks);
SETTER(upstream);
SETTER(patterns);
SETTER(names);
SETTER(code);
SETTER(enhanced);
SETTER(line);
SETTER(path);
SETTER(options);
SETTER(certificate);
SETTER(host);
SETTER(pins);
SETTER(suites);
#undef SETTER
bool set_map(struct loader *l, const struct key *k, void *base, const struct node *n);
bool set_named(struct loader *l, const struct key *k, void *base, const struct node *n);
void put_certificates(FILE *out, const struct key *k, const void *base, int indent);
void start_listener(void *base);
bool scalar_starttls(struct loader *l, void *base, const struct node *n);
bool scalar_upstream_tls(struct loader *l, void *base, const struct node *n);
bool scalar_reply(struct loader *l, void *base, const struct node *n);

#define VALUE_TEXT_BYTES 32
const char *duration_text(uint64_t ms, char buf[VALUE_TEXT_BYTES]);
const char *size_text(uint64_t n, char buf[VALUE_TEXT_BYTES]);
const char *count_text(uint64_t n, char buf[VALUE_TEXT_BYTES]);
bool one_value(struct loader *l, const struct key *k, const struct node *n);
/* The items of a list, or the scalar that stands for a list of one. */
struct values {
	const struct node **v;
	uint32_t count;
};
bool many_values(struct loader *l, const struct key *k, const struct node *n, struct values *out);
const char *word_stored(const struct key *k, const void *base);
/* Something else than the default of its row is in the field. */
bool value_differs(const struct key *k, const void *base);
void put_quoted(FILE *out, const char *p, size_t n);
/* One item of a list at a time; `count` items in all. An empty list is []. */
void put_list_start(FILE *out, uint32_t count);
void put_list_item(FILE *out, uint32_t i, uint32_t count, int indent, struct span text);
void put_list_end(FILE *out, uint32_t count);
const char *ext_reason(enum smtp_ext e);

/* ---- check.c: what one key cannot know ---- */

void conf_check(struct loader *l);  /* errors */
void conf_finish(struct loader *l); /* fields that follow from several keys */

static inline void *field(const struct key *k, void *base)
{
	return (char *)base + k->off;
}

static inline const void *field_const(const struct key *k, const void *base)
{
	return (const char *)base + k->off;
}

#endif
