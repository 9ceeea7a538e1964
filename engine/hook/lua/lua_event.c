/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a handler is given: an object whose fields are made when they are asked for, which costs a
 * third of a table with all of them, and whose methods are the changes a hook may ask for. The
 * object is used again for a later event: kept beyond its own it is of no use, but harmless.
 *
 * Everything but lua_point_name() runs inside a protected call and may raise.
 */
#include "engine/hook/lua/lua_int.h"

#include "engine/hook/plugin/plugin_int.h"
#include "engine/smtp/octets.h"
#include "ring/listen.h"

static const char event_key; /* its address: the metatable of events */

const char *lua_point_name(enum hook_point point)
{
	static const char *const names[] = {[HOOK_CONNECT] = "connect",
		[HOOK_EHLO] = "ehlo",
		[HOOK_AUTH] = "auth",
		[HOOK_MAIL] = "mail",
		[HOOK_RCPT] = "rcpt",
		[HOOK_DATA] = "data",
		[HOOK_END_OF_DATA] = "end_of_data",
		[HOOK_STARTTLS] = "starttls",
		[HOOK_RESET] = "reset",
		[HOOK_TRANSACTION] = "transaction",
		[HOOK_CLOSE] = "close",
		[HOOK_BODY] = "body"};

	_Static_assert(ARRAY_LEN(names) == HOOK_POINT_COUNT, "a name for each event");
	return names[point];
}

static struct lua_run *check_event(lua_State *L)
{
	struct lua_run *r = lua_as(L, 1, &event_key);

	if (!r)
		luaL_error(L, "an event was expected (a method is called with a colon)");
	if (!r->ask.ev)
		luaL_error(L, "this event is over");
	return r;
}

/* ---- fields ---- */

static void push_span(lua_State *L, struct span s)
{
	lua_pushlstring(L, (const char *)s.p, s.n);
}

static void push_some(lua_State *L, struct span s)
{
	if (s.n > 0)
		push_span(L, s);
	else
		lua_pushnil(L);
}

/* As the log shows them. */
static void push_id(lua_State *L, uint64_t id)
{
	char text[17];

	if (id == 0) {
		lua_pushnil(L);
		return;
	}
	for (int i = 0; i < 16; i++)
		text[i] = "0123456789abcdef"[id >> (60 - 4 * i) & 15];
	lua_pushlstring(L, text, 16);
}

static void push_count(lua_State *L, uint64_t n)
{
	lua_pushinteger(L, (lua_Integer)n);
}

static void push_kind(lua_State *L, const struct lua_run *r)
{
	lua_pushstring(L, lua_point_name(r->ask.ev->point));
}

static void push_session(lua_State *L, const struct lua_run *r)
{
	push_id(L, r->ask.ev->sid);
}

static void push_transaction(lua_State *L, const struct lua_run *r)
{
	push_id(L, r->ask.ev->tid);
}

static void push_listener(lua_State *L, const struct lua_run *r)
{
	lua_pushstring(L, r->ask.lis->name);
}

static void push_client(lua_State *L, const struct lua_run *r)
{
	char text[PLUGIN_CLIENT_BYTES];

	lua_pushlstring(L, text, plugin_client_text(r->ask.ev->client, text));
}

static void push_client_port(lua_State *L, const struct lua_run *r)
{
	const struct ring_addr *a = r->ask.ev->client;

	if (a->sa.sa_family == AF_UNIX)
		lua_pushnil(L);
	else
		push_count(L, addr_port(a));
}

static void push_helo(lua_State *L, const struct lua_run *r)
{
	push_some(L, r->ask.ev->helo);
}

static void push_mechanism(lua_State *L, const struct lua_run *r)
{
	push_some(L, r->ask.ev->mechanism);
}

static void push_identity(lua_State *L, const struct lua_run *r)
{
	push_some(L, r->ask.ev->identity);
}

/* "" is the null sender. */
static void push_address(lua_State *L, const struct lua_run *r)
{
	if (r->ask.ev->path)
		push_span(L, r->ask.ev->path->mailbox);
	else
		lua_pushnil(L);
}

static void push_params(lua_State *L, const struct lua_run *r)
{
	if (r->ask.ev->path)
		push_span(L, span_trim(r->ask.ev->path->params));
	else
		lua_pushnil(L);
}

static void push_sender(lua_State *L, const struct lua_run *r)
{
	enum hook_point point = r->ask.ev->point;

	if (point == HOOK_RCPT || point == HOOK_DATA || point == HOOK_END_OF_DATA)
		push_span(L, r->ask.ev->sender);
	else
		lua_pushnil(L);
}

static void push_recipient(lua_State *L, const struct lua_run *r)
{
	push_some(L, r->ask.ev->only_rcpt);
}

static void push_recipients(lua_State *L, const struct lua_run *r)
{
	push_count(L, r->ask.ev->recipients);
}

static void push_bytes(lua_State *L, const struct lua_run *r)
{
	push_count(L, r->ask.ev->bytes);
}

static void push_result(lua_State *L, const struct lua_run *r)
{
	static const char *const words[] = {[HOOK_ACCEPTED] = "accepted",
		[HOOK_REJECTED] = "rejected",
		[HOOK_ABORTED] = "aborted",
		[HOOK_IN_DOUBT] = "in-doubt",
		[HOOK_CLIENT_GONE] = "client-gone",
		[HOOK_DISCARDED] = "discarded"};

	lua_pushstring(L, words[r->ask.ev->outcome]);
}

static void push_code(lua_State *L, const struct lua_run *r)
{
	if (r->ask.ev->code)
		push_count(L, r->ask.ev->code);
	else
		lua_pushnil(L);
}

static void push_data(lua_State *L, const struct lua_run *r)
{
	if (r->ask.ev->point == HOOK_BODY)
		push_span(L, r->ask.ev->data);
	else
		lua_pushnil(L);
}

/* ---- of TLS ---- */

static const struct hook_tls *tls_of(const struct lua_run *r)
{
	static const struct hook_tls clear;

	return r->ask.ev->tls ? r->ask.ev->tls : &clear;
}

static void push_tls_version(lua_State *L, const struct lua_run *r)
{
	push_some(L, tls_of(r)->version);
}

static void push_tls_cipher(lua_State *L, const struct lua_run *r)
{
	push_some(L, tls_of(r)->cipher);
}

static void push_tls_bits(lua_State *L, const struct lua_run *r)
{
	if (r->ask.ev->tls)
		push_count(L, r->ask.ev->tls->bits);
	else
		lua_pushnil(L);
}

static void push_tls_sni(lua_State *L, const struct lua_run *r)
{
	push_some(L, tls_of(r)->sni);
}

static void push_tls_subject(lua_State *L, const struct lua_run *r)
{
	push_some(L, tls_of(r)->subject);
}

static void push_tls_verified(lua_State *L, const struct lua_run *r)
{
	lua_pushboolean(L, tls_of(r)->verified);
}

/* As pins are written in the configuration. */
static void push_tls_sha256(lua_State *L, const struct lua_run *r)
{
	struct span sum = tls_of(r)->sha256;
	luaL_Buffer b;

	if (sum.n == 0) {
		lua_pushnil(L);
		return;
	}
	luaL_buffinit(L, &b);
	for (size_t i = 0; i < sum.n; i++) {
		luaL_addchar(&b, "0123456789abcdef"[sum.p[i] >> 4]);
		luaL_addchar(&b, "0123456789abcdef"[sum.p[i] & 15]);
	}
	luaL_pushresult(&b);
}

/* ---- of the worker and the session ---- */

static void push_worker(lua_State *L, const struct lua_run *r)
{
	push_count(L, r->share->worker);
}

/* A table of the session's own, from the first time it is asked for until the session ends. */
static void push_user(lua_State *L, const struct lua_run *r)
{
	struct lua_own *own = lua_own_of(r->share->hook, &r->ask);

	if (!own)
		luaL_error(L, "no room for ev.user");
	if (own->user_ref == LUA_NOREF) {
		lua_newtable(L);
		own->user_ref = luaL_ref(L, LUA_REGISTRYINDEX);
	}
	lua_rawgeti(L, LUA_REGISTRYINDEX, own->user_ref);
}

struct field {
	const char *name;
	void (*push)(lua_State *L, const struct lua_run *r);
};

static const struct field fields[] = {
	{"kind", push_kind},
	{"session", push_session},
	{"transaction", push_transaction},
	{"listener", push_listener},
	{"client", push_client},
	{"client_port", push_client_port},
	{"helo", push_helo},
	{"mechanism", push_mechanism},
	{"identity", push_identity},
	{"address", push_address},
	{"params", push_params},
	{"sender", push_sender},
	{"recipient", push_recipient},
	{"recipients", push_recipients},
	{"bytes", push_bytes},
	{"result", push_result},
	{"code", push_code},
	{"data", push_data},
	{"tls_version", push_tls_version},
	{"tls_cipher", push_tls_cipher},
	{"tls_bits", push_tls_bits},
	{"tls_sni", push_tls_sni},
	{"tls_subject", push_tls_subject},
	{"tls_verified", push_tls_verified},
	{"tls_sha256", push_tls_sha256},
	{"worker", push_worker},
	{"user", push_user},
};

/* Upvalue: name -> struct field, or the function of a method. */
static int event_index(lua_State *L)
{
	const struct lua_run *r = check_event(L);
	const struct field *f;

	lua_settop(L, 2);
	lua_pushvalue(L, 2);
	switch (lua_rawget(L, lua_upvalueindex(1))) {
	case LUA_TLIGHTUSERDATA:
		f = lua_touserdata(L, -1);
		f->push(L, r);
		return 1;
	case LUA_TFUNCTION:
		return 1;
	}
	return luaL_error(L, "an event has no field `%s`", luaL_tolstring(L, 2, NULL));
}

static int event_newindex(lua_State *L)
{
	return luaL_error(L, "the fields of an event cannot be set");
}

/* ---- changes ---- */

/* What a change is told by, in this order. */
enum { BY_NAME = 1, BY_INDEX = 2, BY_VALUE = 4, BY_PARAMS = 8, INDEX_LAST = 16 };

struct change {
	const char *name;
	enum hook_edit_kind kind;
	unsigned by;
	const char *expects; /* why it may have been refused */
};

#define HEADER "this is no header field"
#define MAILBOX "this is no mailbox, or these are no parameters of it"

static const struct change changes[] = {
	{"set_address", EDIT_ADDRESS, BY_VALUE, "this is no mailbox for this command"},
	{"set_params", EDIT_PARAMS, BY_VALUE, "these are no parameters of this command"},
	{"add_header", EDIT_HEADER_INSERT, BY_NAME | BY_VALUE | BY_INDEX | INDEX_LAST, HEADER},
	{"append_header", EDIT_HEADER_APPEND, BY_NAME | BY_VALUE, HEADER},
	{"change_header", EDIT_HEADER_CHANGE, BY_NAME | BY_INDEX | BY_VALUE, HEADER},
	{"delete_header", EDIT_HEADER_DELETE, BY_NAME | BY_INDEX, HEADER},
	{"set_sender", EDIT_SENDER, BY_VALUE | BY_PARAMS, MAILBOX},
	{"add_recipient", EDIT_RCPT_ADD, BY_VALUE | BY_PARAMS, MAILBOX},
	{"delete_recipient", EDIT_RCPT_DELETE, BY_VALUE, MAILBOX},
	{"replace_body", EDIT_BODY, BY_VALUE, "this body is too large"},
};

static struct span take_string(lua_State *L, const struct change *c, int index)
{
	size_t n;
	const char *p;

	/* No numbers: a field of the wrong kind is a mistake. */
	if (lua_type(L, index) != LUA_TSTRING)
		luaL_error(L, "%s: argument %d has to be a string", c->name, index - 1);
	p = lua_tolstring(L, index, &n);
	return span_of(p, n);
}

static uint32_t take_index(lua_State *L, const struct change *c, int index)
{
	bool insert = c->kind == EDIT_HEADER_INSERT;
	lua_Integer i = insert ? luaL_optinteger(L, index, 0) : luaL_checkinteger(L, index);

	if (i < (insert ? 0 : 1) || i > (lua_Integer)HOOK_EDIT_INDEX_MAX)
		luaL_error(L, "%s: the index is out of range", c->name);
	return (uint32_t)i;
}

/* Behind a colon there is a blank, as everybody writes it. */
static struct span header_value(lua_State *L, const struct change *c, int index)
{
	take_string(L, c, index);
	lua_pushliteral(L, " ");
	lua_pushvalue(L, index);
	lua_concat(L, 2);
	lua_replace(L, index);
	return take_string(L, c, index);
}

static void take_arguments(lua_State *L, const struct change *c, struct hook_edit *e)
{
	int at = 2;

	if (c->by & BY_NAME)
		e->name = take_string(L, c, at++);
	if ((c->by & BY_INDEX) && !(c->by & INDEX_LAST))
		e->index = take_index(L, c, at++);
	if (c->by & BY_VALUE) {
		e->value = c->by & BY_NAME ? header_value(L, c, at) : take_string(L, c, at);
		at++;
	}
	if (c->by & INDEX_LAST)
		e->index = take_index(L, c, at++);
	if ((c->by & BY_PARAMS) && !lua_isnoneornil(L, at))
		e->name = take_string(L, c, at++);
}

/* Upvalue: the index of the change. */
static int make_change(lua_State *L)
{
	const struct change *c = &changes[lua_tointeger(L, lua_upvalueindex(1))];
	struct lua_run *r = check_event(L);
	const struct conf_hook *conf = r->share->hook->conf;
	struct hook_edit e = {.kind = c->kind};

	if (!(hook_edits_possible(r->ask.ev->point, conf->mode) & 1u << c->kind))
		return luaL_error(L, "%s: not possible at this event%s", c->name,
			conf->mode == HOOK_HOLD_ALL ? "" : ", or not in this mode of the hook");
	lua_settop(L, 5);
	take_arguments(L, c, &e);
	if (c->kind == EDIT_HEADER_INSERT && e.index > 0 && r->ask.ev->point != HOOK_END_OF_DATA)
		return luaL_error(L, "%s: no header is known yet to insert it behind", c->name);
	if (c->kind == EDIT_BODY) {
		/* The list has no bound for bodies. */
		if (e.value.n > r->share->bytes_max - MIN_OF(r->body_bytes, r->share->bytes_max))
			return luaL_error(L, "%s: %s", c->name, c->expects);
		r->body_bytes += e.value.n;
	}
	lua_spend(L, (e.name.n + e.value.n) / LUA_OCTETS_PER_INSTRUCTION);
	if (!hook_edits_add(&r->edits, &e, r->ask.ev->point == HOOK_RCPT))
		return luaL_error(L, "%s: %s, or there are too many changes", c->name, c->expects);
	return 0;
}

/* ---- the object ---- */

static void push_members(lua_State *L)
{
	lua_createtable(L, 0, (int)(ARRAY_LEN(fields) + ARRAY_LEN(changes)));
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		lua_pushlightuserdata(L, (void *)(uintptr_t)&fields[i]);
		lua_setfield(L, -2, fields[i].name);
	}
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		lua_pushinteger(L, (lua_Integer)i);
		lua_pushcclosure(L, make_change, 1);
		lua_setfield(L, -2, changes[i].name);
	}
}

void lua_open_events(lua_State *L)
{
	lua_new_metatable(L, &event_key);
	push_members(L);
	lua_pushcclosure(L, event_index, 1);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, event_newindex);
	lua_setfield(L, -2, "__newindex");
	lua_pop(L, 1);
}

struct lua_run *lua_push_event(lua_State *L)
{
	struct lua_run *r = lua_newuserdatauv(L, sizeof(*r), 1);

	*r = (struct lua_run){.share = lua_share_of(L), .co_ref = LUA_NOREF, .self_ref = LUA_NOREF};
	lua_rawgetp(L, LUA_REGISTRYINDEX, &event_key);
	lua_setmetatable(L, -2);
	return r;
}

/* ---- a copy, for as long as the call sleeps ---- */

struct kept {
	struct hook_event ev;
	struct ring_addr client;
	struct smtp_path path;
	struct hook_tls tls;
	uint8_t octets[];
};

#define KEPT_SPANS 12

static unsigned spans_of(struct hook_event *ev, struct smtp_path *path, struct hook_tls *tls,
	struct span *out[KEPT_SPANS])
{
	unsigned n = 0;

	out[n++] = &ev->helo;
	out[n++] = &ev->mechanism;
	out[n++] = &ev->identity;
	out[n++] = &ev->sender;
	out[n++] = &ev->only_rcpt;
	out[n++] = &path->mailbox;
	out[n++] = &path->params;
	out[n++] = &tls->version;
	out[n++] = &tls->cipher;
	out[n++] = &tls->sni;
	out[n++] = &tls->subject;
	out[n++] = &tls->sha256;
	return n;
}

void lua_keep_event(lua_State *L, struct lua_run *r)
{
	struct hook_event ev = *r->ask.ev;
	struct smtp_path path = ev.path ? *ev.path : (struct smtp_path){0};
	struct hook_tls tls = ev.tls ? *ev.tls : (struct hook_tls){0};
	struct span *spans[KEPT_SPANS];
	unsigned count = spans_of(&ev, &path, &tls, spans);
	size_t bytes = 0;
	struct kept *k;

	if (r->call)
		return; /* it has slept before */
	for (unsigned i = 0; i < count; i++)
		bytes += spans[i]->n;
	lua_rawgeti(L, LUA_REGISTRYINDEX, r->self_ref);
	k = lua_newuserdatauv(L, sizeof(*k) + bytes, 0);
	lua_setiuservalue(L, -2, 1);
	lua_pop(L, 1);
	bytes = 0;
	for (unsigned i = 0; i < count; i++) {
		if (spans[i]->n)
			memcpy(k->octets + bytes, spans[i]->p, spans[i]->n);
		*spans[i] = span_of(k->octets + bytes, spans[i]->n);
		bytes += spans[i]->n;
	}
	k->path = path;
	k->tls = tls;
	k->client = *ev.client;
	k->ev = ev;
	k->ev.client = &k->client;
	k->ev.server = NULL;
	k->ev.path = ev.path ? &k->path : NULL;
	k->ev.tls = ev.tls ? &k->tls : NULL;
	r->ask.ev = &k->ev;
}
