/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bringing a plugin in: the file is opened once, what was opened is checked, and what was checked
 * is loaded. Main thread.
 *
 * Failure modes: a file that is not there, or that somebody else could have written; what the
 * dynamic linker objects to; a descriptor that is missing or not of this ABI. All of them are told,
 * none is survived: the plugin is not used.
 */
#include "engine/hook/plugin/plugin_int.h"

#include "engine/hook/file.h"
#include "engine/smtp/octets.h"

#include <dlfcn.h>
#include <unistd.h>

#define LINK_NAME_BYTES 128

/* ---- the object ---- */

/* The linker knows an object by the name it was asked for, and gives the old object for an old
 * name, whatever is behind it today. Numbers of descriptors come again, so each name is a new one:
 * a counter, written in components that mean nothing. */
static void name_for_linker(int fd, char name[LINK_NAME_BYTES])
{
	static uint32_t count;
	size_t n = (size_t)snprintf(name, LINK_NAME_BYTES, "/proc/self/fd/");

	count++;
	for (uint32_t left = count; left > 0; left >>= 1)
		n += (size_t)snprintf(name + n, LINK_NAME_BYTES - n, "%s", left & 1 ? "./" : "/");
	snprintf(name + n, LINK_NAME_BYTES - n, "%d", fd);
}

/* dlerror() without the name it begins with, if it does. */
static const char *linker_says(const char *name)
{
	const char *text = dlerror();
	size_t n = strlen(name);

	if (!text)
		return "the dynamic linker does not say why";
	return strncmp(text, name, n) == 0 && strncmp(text + n, ": ", 2) == 0 ? text + n + 2 : text;
}

static bool link_object(struct plugin *p, const char *file, char *why, size_t why_max)
{
	char name[LINK_NAME_BYTES];

	name_for_linker(p->fd, name);
	/* Without /proc (a bare chroot) there is only the path: whoever may write to its directory
	 * could change what it names between the check and now. */
	if (access(name, F_OK) == 0)
		p->object = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	else
		p->object = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (!p->object)
		return hook_file_no(
			why, why_max, "%s: cannot be loaded: %s", file, linker_says(name));
	p->says = dlsym(p->object, "ringpost_plugin");
	if (!p->says)
		return hook_file_no(why, why_max,
			"%s: not a plugin of ringpost: it defines no `ringpost_plugin`", file);
	return true;
}

/* ---- the descriptor ---- */

static bool name_ok(const char *name)
{
	size_t n = name ? strnlen(name, PLUGIN_NAME_BYTES_MAX + 1) : 0;

	if (n == 0 || n > PLUGIN_NAME_BYTES_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!octet_is((uint8_t)name[i], OCTET_KEYWORD) && name[i] != '_')
			return false;
	return true;
}

/* In this order: what lies behind `size` may be read only when abi and size are right. */
static bool check_descriptor(
	const struct ringpost_plugin *d, const char *file, char *why, size_t why_max)
{
	if (d->abi != RINGPOST_ABI)
		return hook_file_no(why, why_max,
			"%s: made for version %u of the plugin interface; this ringpost has "
			"version %u",
			file, d->abi, RINGPOST_ABI);
	if (d->size < sizeof(struct ringpost_plugin))
		return hook_file_no(why, why_max,
			"%s: its ringpost_plugin.size is %u, version %u has %zu at least", file,
			d->size, RINGPOST_ABI, sizeof(struct ringpost_plugin));
	if (!name_ok(d->name))
		return hook_file_no(why, why_max,
			"%s: its ringpost_plugin.name is not 1 to %d letters, digits, '-' and '_'",
			file, PLUGIN_NAME_BYTES_MAX);
	if (d->flags & ~RINGPOST_MAY_BLOCK)
		return hook_file_no(why, why_max,
			"%s: its ringpost_plugin.flags (%#x) has some that this ringpost does not "
			"know",
			file, d->flags);
	if (d->events & ~(uint32_t)RINGPOST_ON_ALL)
		return hook_file_no(why, why_max,
			"%s: asks for events that this ringpost does not know "
			"(ringpost_plugin.events %#x)",
			file, d->events & ~(uint32_t)RINGPOST_ON_ALL);
	if (d->events == 0)
		return hook_file_no(
			why, why_max, "%s: asks for no events (ringpost_plugin.events)", file);
	if (!d->open || !d->event)
		return hook_file_no(why, why_max, "%s: has no ringpost_plugin.%s", file,
			d->open ? "event" : "open");
	return true;
}

/* ---- ---- */

bool plugin_load(struct plugin *p, const char *file, char *why, size_t why_max)
{
	p->fd = hook_file_open(file, "a plugin", why, why_max);
	if (p->fd < 0)
		return false;
	if (link_object(p, file, why, why_max) && check_descriptor(p->says, file, why, why_max))
		return true;
	plugin_unload(p);
	return false;
}

void plugin_unload(struct plugin *p)
{
	if (p->object)
		dlclose(p->object);
	close(p->fd);
	p->object = NULL;
	p->fd = -1;
}
