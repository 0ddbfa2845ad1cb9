/* SPDX-License-Identifier: MIT */
#include <mqfs/message.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BODY_MIN_CAPACITY 256

struct mqfs_body *mqfs_body_new(void)
{
	struct mqfs_body *body = calloc(1, sizeof(*body));

	if (body)
		atomic_init(&body->references, 1);
	return body;
}

struct mqfs_body *mqfs_body_ref(struct mqfs_body *body)
{
	atomic_fetch_add_explicit(&body->references, 1, memory_order_relaxed);
	return body;
}

struct mqfs_body *mqfs_body_unref(struct mqfs_body *body)
{
	if (body && atomic_fetch_sub_explicit(&body->references, 1, memory_order_acq_rel) == 1) {
		free(body->data);
		free(body);
	}
	return NULL;
}

static int body_reserve(struct mqfs_body *body, size_t bytes)
{
	size_t capacity = body->capacity ? body->capacity : BODY_MIN_CAPACITY;
	unsigned char *data;

	assert(atomic_load_explicit(&body->references, memory_order_relaxed) == 1);
	if (bytes <= body->capacity)
		return 0;
	if (bytes > PTRDIFF_MAX / 2)
		return -ENOMEM;
	while (capacity < bytes)
		capacity *= 2;
	data = realloc(body->data, capacity);
	if (!data)
		return -ENOMEM;
	body->data = data;
	body->capacity = capacity;
	return 0;
}

int mqfs_body_write(struct mqfs_body *body, size_t offset, const void *data, size_t bytes)
{
	size_t end;
	int r;

	if (bytes == 0)
		return 0;
	if (__builtin_add_overflow(offset, bytes, &end))
		return -ENOMEM;
	r = body_reserve(body, end);
	if (r < 0)
		return r;
	if (offset > body->bytes)
		memset(body->data + body->bytes, 0, offset - body->bytes);
	memcpy(body->data + offset, data, bytes);
	if (end > body->bytes)
		body->bytes = end;
	return 0;
}

int mqfs_body_truncate(struct mqfs_body *body, size_t bytes)
{
	int r = body_reserve(body, bytes);

	if (r < 0)
		return r;
	if (bytes > body->bytes)
		memset(body->data + body->bytes, 0, bytes - body->bytes);
	body->bytes = bytes;
	return 0;
}

/* A message that has everything but a body. */
static struct mqfs_message *message_alloc(void)
{
	struct mqfs_message *message = calloc(1, sizeof(*message));

	if (message) {
		message->priority = -1;
		message->delivery_mode = 2;
	}
	return message;
}

struct mqfs_message *mqfs_message_new(void)
{
	struct mqfs_message *message = message_alloc();

	if (!message)
		return NULL;
	message->body = mqfs_body_new();
	return message->body ? message : mqfs_message_free(message);
}

struct mqfs_message *mqfs_message_free(struct mqfs_message *message)
{
	if (!message)
		return NULL;
	free(message->content_type);
	free(message->content_encoding);
	free(message->correlation_id);
	free(message->reply_to);
	free(message->expiration);
	free(message->message_id);
	free(message->type);
	free(message->user_id);
	free(message->app_id);
	mqfs_table_clear(&message->headers);
	mqfs_body_unref(message->body);
	free(message);
	return NULL;
}

int mqfs_message_set_string(char **slot, const char *text)
{
	char *copy = NULL;

	if (text) {
		copy = strdup(text);
		if (!copy)
			return -ENOMEM;
	}
	free(*slot);
	*slot = copy;
	return 0;
}

static int copy_strings(struct mqfs_message *copy, const struct mqfs_message *message)
{
	if (mqfs_message_set_string(&copy->content_type, message->content_type) < 0 ||
	    mqfs_message_set_string(&copy->content_encoding, message->content_encoding) < 0 ||
	    mqfs_message_set_string(&copy->correlation_id, message->correlation_id) < 0 ||
	    mqfs_message_set_string(&copy->reply_to, message->reply_to) < 0 ||
	    mqfs_message_set_string(&copy->expiration, message->expiration) < 0 ||
	    mqfs_message_set_string(&copy->message_id, message->message_id) < 0 ||
	    mqfs_message_set_string(&copy->type, message->type) < 0 ||
	    mqfs_message_set_string(&copy->user_id, message->user_id) < 0 ||
	    mqfs_message_set_string(&copy->app_id, message->app_id) < 0)
		return -ENOMEM;
	return 0;
}

static int copy_headers(struct mqfs_message *copy, const struct mqfs_message *message)
{
	struct mqfs_value from = {.kind = 'F', .table = message->headers}, to;
	int r = mqfs_value_copy(&from, &to);

	if (r == 0)
		copy->headers = to.table;
	return r;
}

struct mqfs_message *mqfs_message_copy(const struct mqfs_message *message)
{
	struct mqfs_message *copy = message_alloc();

	if (!copy)
		return NULL;
	copy->priority = message->priority;
	copy->timestamp = message->timestamp;
	copy->delivery_mode = message->delivery_mode;
	if (copy_strings(copy, message) < 0 || copy_headers(copy, message) < 0)
		return mqfs_message_free(copy);
	copy->body = mqfs_body_ref(message->body);
	return copy;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

bool mqfs_message_same_copy(const struct mqfs_message *a, const struct mqfs_message *b)
{
	return same_text(a->message_id, b->message_id) &&
	       same_text(mqfs_headers_string(&a->headers, "mqfs-copy"), mqfs_headers_string(&b->headers, "mqfs-copy"));
}
