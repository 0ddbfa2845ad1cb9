/* SPDX-License-Identifier: MIT */
#include "fuzz.h"

#include <math.h>

static bool same_bytes(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
	return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_array(const struct mqfs_array *a, const struct mqfs_array *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!same_value(&a->values[i], &b->values[i]))
			return false;
	return true;
}

bool same_value(const struct mqfs_value *a, const struct mqfs_value *b)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case 't':
		return a->boolean == b->boolean;
	case 'f':
	case 'd':
		return a->real == b->real || (isnan(a->real) && isnan(b->real));
	case 'D':
		return a->decimal.scale == b->decimal.scale && a->decimal.value == b->decimal.value;
	case 'S':
	case 'x':
		return same_bytes(a->bytes.data, a->bytes.bytes, b->bytes.data, b->bytes.bytes);
	case 'A':
		return same_array(&a->array, &b->array);
	case 'F':
		return same_table(&a->table, &b->table);
	case 'V':
		return true;
	default:
		return a->integer == b->integer;
	}
}

bool same_table(const struct mqfs_table *a, const struct mqfs_table *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!same_text(a->fields[i].name, b->fields[i].name) ||
		    !same_value(&a->fields[i].value, &b->fields[i].value))
			return false;
	return true;
}

bool same_message(const struct mqfs_message *a, const struct mqfs_message *b)
{
	return same_text(a->content_type, b->content_type) && same_text(a->content_encoding, b->content_encoding) &&
	       same_text(a->correlation_id, b->correlation_id) && same_text(a->reply_to, b->reply_to) &&
	       same_text(a->expiration, b->expiration) && same_text(a->message_id, b->message_id) &&
	       same_text(a->type, b->type) && same_text(a->user_id, b->user_id) && same_text(a->app_id, b->app_id) &&
	       a->priority == b->priority && a->timestamp == b->timestamp && same_table(&a->headers, &b->headers) &&
	       same_bytes(a->body->data, a->body->bytes, b->body->data, b->body->bytes);
}
