/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Files whose contents this process is going to run: shared objects and scripts. Main thread.
 *
 * Failure modes: a file that is not there, or that somebody else could have written: told, and the
 * file is not used.
 */
#ifndef HOOK_FILE_H
#define HOOK_FILE_H

#include "ring/base.h"

/* Opens the file for reading and checks what was opened: a regular file of root or of the account
 * this process runs as, which nobody else may write to, in a directory that not everybody may write
 * to. `what` names its kind ("a plugin"). The descriptor is the caller's; -1 with the reason. */
int hook_file_open(const char *file, const char *what, char *why, size_t why_max) MUST_USE;

/* Writes the reason; always false, so that it can be what a failing function returns. */
bool hook_file_no(char *why, size_t why_max, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
