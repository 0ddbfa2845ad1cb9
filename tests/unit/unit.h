/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_H
#define MQFS_TESTS_UNIT_H

/* What every unit test needs: cmocka with its prerequisites, and small makers of fixtures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mqfs/message.h>

/* The same numbers in every run, so that a failure can be seen again (xorshift64). */
static inline uint64_t unit_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline struct mqfs_value unit_text(const char *text)
{
	return (struct mqfs_value){.kind = 'S', .bytes = {.data = strdup(text), .bytes = strlen(text)}};
}

/* Appends to an array or a table; takes the value over. */
static inline void unit_push(struct mqfs_array *array, struct mqfs_value value)
{
	array->values = realloc(array->values, (array->count + 1) * sizeof(*array->values));
	assert_non_null(array->values);
	array->values[array->count++] = value;
}

static inline void unit_add(struct mqfs_table *table, const char *name, struct mqfs_value value)
{
	table->fields = realloc(table->fields, (table->count + 1) * sizeof(*table->fields));
	assert_non_null(table->fields);
	table->fields[table->count++] = (struct mqfs_field){.name = strdup(name), .value = value};
}

static inline struct mqfs_message *unit_message(const char *body)
{
	struct mqfs_message *message = mqfs_message_new();

	assert_non_null(message);
	assert_int_equal(mqfs_body_write(message->body, 0, body, strlen(body)), 0);
	return message;
}

#endif
