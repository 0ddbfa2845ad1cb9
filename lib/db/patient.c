/* SPDX-License-Identifier: MIT */
#include "patient.h"

#include <stdlib.h>
#include <time.h>

void *patient_alloc(size_t bytes)
{
	static const struct timespec pause = {.tv_nsec = 1000 * 1000};
	void *memory;

	while (!(memory = calloc(1, bytes)))
		nanosleep(&pause, NULL);
	return memory;
}
