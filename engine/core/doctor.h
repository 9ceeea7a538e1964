/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `ringpost doctor`: what this machine offers, what ringpost will use, and the exact barrier when
 * it cannot run. Prints; exit code EXIT_RAN or EXIT_DENIED.
 */
#ifndef CORE_DOCTOR_H
#define CORE_DOCTOR_H

#include "engine/conf/conf.h"

/* `c` may be NULL: the defaults are planned for. */
int doctor(const struct conf *c, FILE *out);

#endif
