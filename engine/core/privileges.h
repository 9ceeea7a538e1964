/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Giving up what is not needed after the listeners are bound. Control thread, before any other
 * exists.
 */
#ifndef CORE_PRIVILEGES_H
#define CORE_PRIVILEGES_H

#include "ring/base.h"

/* Gives the file to `user`, so that it can still be written, and rotated, by who we become. Only
 * root can, and only where both are named. */
bool privileges_own(const char *user, const char *path, FILE *err) MUST_USE;

/* No core dumps, no ptrace: mail and AUTH exchanges pass through memory, and keys lie there. Due
 * before the first key is read. */
void privileges_no_dumps(void);

/* Becomes `user` (NULL: stay) with its groups, no way back, no core dumps, no ptrace, no new
 * privileges. False and a message: the process must not go on. */
bool privileges_drop(const char *user, FILE *err) MUST_USE;

#endif
