/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_MEMORY_FIXTURE_H
#define MQFS_TESTS_UNIT_MEMORY_FIXTURE_H

/*
 * Memory that runs out where the test says so: the linker leads the program's calls here (--wrap), those of the library
 * and of the test. Included once by each test program, before what allocates.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t bytes);
int __real_vasprintf(char **ret_text, const char *format, va_list arguments);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t bytes);
int __wrap_asprintf(char **ret_text, const char *format, ...);
int __wrap_vasprintf(char **ret_text, const char *format, va_list arguments);
void __wrap_free(void *memory);

static atomic_int countdown = -1; /* which allocation from now fails; negative: none */
static atomic_bool failed;
static atomic_long alive;

static bool may_allocate(void)
{
	if (atomic_load(&countdown) >= 0 && atomic_fetch_sub(&countdown, 1) == 0) {
		atomic_store(&failed, true);
		errno = ENOMEM;
		return false;
	}
	return true;
}

static void *born(void *memory)
{
	atomic_fetch_add(&alive, memory != NULL);
	return memory;
}

void *__wrap_malloc(size_t bytes)
{
	return may_allocate() ? born(__real_malloc(bytes)) : NULL;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return may_allocate() ? born(__real_calloc(count, bytes)) : NULL;
}

void *__wrap_realloc(void *old, size_t bytes)
{
	void *memory = may_allocate() ? __real_realloc(old, bytes) : NULL;

	return old ? memory : born(memory);
}

char *__wrap_strdup(const char *text)
{
	return may_allocate() ? born(__real_strdup(text)) : NULL;
}

char *__wrap_strndup(const char *text, size_t bytes)
{
	return may_allocate() ? born(__real_strndup(text, bytes)) : NULL;
}

int __wrap_vasprintf(char **ret_text, const char *format, va_list arguments)
{
	int r = may_allocate() ? __real_vasprintf(ret_text, format, arguments) : -1;

	if (r >= 0)
		born(*ret_text);
	return r;
}

int __wrap_asprintf(char **ret_text, const char *format, ...)
{
	va_list arguments;
	int r;

	va_start(arguments, format);
	r = __wrap_vasprintf(ret_text, format, arguments);
	va_end(arguments);
	return r;
}

void __wrap_free(void *memory)
{
	atomic_fetch_sub(&alive, memory != NULL);
	__real_free(memory);
}

/* From here on the one after the next n allocations fails; until memory_is_back. */
static inline void memory_fails_after(int n)
{
	atomic_store(&failed, false);
	atomic_store(&countdown, n);
}

static inline void memory_is_back(void)
{
	atomic_store(&countdown, -1);
}

/* Runs a case that tells whether it succeeded, and cleans up after itself either way. */
static inline void exhaust_memory(bool (*run)(void))
{
	int n = 0;

	for (;; n++) {
		long before = alive;
		bool succeeded;

		memory_fails_after(n);
		succeeded = run();
		memory_is_back();
		assert_int_equal(alive, before);
		assert_int_equal(succeeded, !failed);
		if (succeeded)
			break;
	}
	assert_true(n > 0);
}

#endif
