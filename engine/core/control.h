/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The process: binds, drops privileges, starts the workers, and then is the control thread:
 * signals, log drain, the way down. Called once, from main.
 */
#ifndef CORE_CONTROL_H
#define CORE_CONTROL_H

#include "engine/conf/conf.h"

/* Exit codes of sysexits(3) that ringpost uses. */
enum {
	EXIT_RAN = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 64,
	EXIT_UNAVAILABLE = 69,
	EXIT_DENIED = 77,
	EXIT_CONFIG = 78
};

/* Runs until told to stop; the exit code. */
int control_run(const struct conf *c);

#endif
