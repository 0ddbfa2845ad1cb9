/* SPDX-License-Identifier: MIT */
#ifndef MQFS_MESSAGE_H
#define MQFS_MESSAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A message: content and properties, the same for every backend.
 *
 * Headers keep the AMQP field type of each value, so that a message of somebody else's passes through
 * retry/ and dead/ without a change (RabbitMQ's table of field types:
 * https://www.rabbitmq.com/amqp-0-9-1-errata.html#section_3).
 */

struct mqfs_value;
struct mqfs_field;

struct mqfs_table {
	struct mqfs_field *fields;
	size_t count;
};

struct mqfs_array {
	struct mqfs_value *values;
	size_t count;
};

struct mqfs_bytes {
	char *data; /* not terminated by NUL, but followed by one */
	size_t bytes;
};

struct mqfs_value {
	/* t bool; b B s u I i l L T integers (T: seconds since the epoch); f d real; D decimal;
	 * S long string; x bytes; A array; F table; V void */
	char kind;
	union {
		bool boolean;
		int64_t integer;
		double real;
		struct {
			uint8_t scale;
			uint32_t value;
		} decimal;
		struct mqfs_bytes bytes;
		struct mqfs_array array;
		struct mqfs_table table;
	};
};

struct mqfs_field {
	char *name;
	struct mqfs_value value;
};

/*
 * A body may be shared by a message and its copies (a retry copies properties, not a megabyte), so it
 * is counted; it does not change once a second reference exists.
 */
struct mqfs_body {
	atomic_uint references;
	size_t bytes;
	size_t capacity;
	unsigned char *data;
};

struct mqfs_body *mqfs_body_new(void); /* empty; NULL when out of memory */
struct mqfs_body *mqfs_body_ref(struct mqfs_body *body);
struct mqfs_body *mqfs_body_unref(struct mqfs_body *body); /* takes NULL, returns NULL */
/* Writes at offset, growing the body and filling a gap with zeros. The only holder may call it.
 * Returns 0 or -ENOMEM. */
int mqfs_body_write(struct mqfs_body *body, size_t offset, const void *data, size_t bytes);
/* Cuts or extends with zeros. Returns 0 or -ENOMEM. */
int mqfs_body_truncate(struct mqfs_body *body, size_t bytes);

struct mqfs_message {
	/* The basic class's properties (AMQP 0-9-1, 1.8); NULL, -1 and 0 say "absent". Each string is
	 * at most 255 bytes (a short string). */
	char *content_type;
	char *content_encoding;
	char *correlation_id;
	char *reply_to;
	char *expiration; /* decimal milliseconds */
	char *message_id;
	char *type;
	char *user_id;
	char *app_id;
	int priority;       /* 0..255, or -1 */
	uint64_t timestamp; /* seconds since the epoch, or 0 */
	int delivery_mode;  /* as found; what mqfs publishes is always 2, persistent */
	struct mqfs_table headers;
	struct mqfs_body *body; /* never NULL */
};

/* All return NULL when out of memory. A message has one owner; free takes NULL and returns NULL. */
struct mqfs_message *mqfs_message_new(void);
struct mqfs_message *mqfs_message_free(struct mqfs_message *message);
/* Deep copy of the properties and headers; the body is shared. */
struct mqfs_message *mqfs_message_copy(const struct mqfs_message *message);
/* Have they the same message-id and the same mqfs-copy (absent equals absent)? */
bool mqfs_message_same_copy(const struct mqfs_message *a, const struct mqfs_message *b);

/* Sets *slot to a copy of text (NULL: absent). 0 or -ENOMEM. */
int mqfs_message_set_string(char **slot, const char *text);

/* Headers. Lookups return NULL when absent; set replaces. Names are at most 255 bytes.
 * Each set returns 0 or -ENOMEM. */
const struct mqfs_value *mqfs_headers_get(const struct mqfs_table *headers, const char *name);
/* The text of a string header, or NULL when absent or not of kind S. */
const char *mqfs_headers_string(const struct mqfs_table *headers, const char *name);
/* The value of any integer header (also a decimal string), else fallback. */
int64_t mqfs_headers_integer(const struct mqfs_table *headers, const char *name, int64_t fallback);
int mqfs_headers_set_string(struct mqfs_table *headers, const char *name, const char *text);
int mqfs_headers_set_bytes(struct mqfs_table *headers, const char *name, const void *data, size_t bytes); /* kind S */
int mqfs_headers_set_integer(struct mqfs_table *headers, const char *name, int64_t value);                /* kind l */
/* Deep copy of value under name. */
int mqfs_headers_set_value(struct mqfs_table *headers, const char *name, const struct mqfs_value *value);
void mqfs_headers_remove(struct mqfs_table *headers, const char *name);

int mqfs_value_copy(const struct mqfs_value *value, struct mqfs_value *ret_copy); /* 0 or -ENOMEM */
void mqfs_value_clear(struct mqfs_value *value);
void mqfs_table_clear(struct mqfs_table *table);
/* How many bytes the table takes as an AMQP field table, its length prefix included. */
size_t mqfs_table_encoded_bytes(const struct mqfs_table *table);

#define MQFS_UUID_BYTES 37
/* A UUIDv7 (RFC 9562) as text, in creation order within this process. Thread-safe; may read getrandom(2). */
char *mqfs_uuid(char buffer[MQFS_UUID_BYTES]);

#endif
