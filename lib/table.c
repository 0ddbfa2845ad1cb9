/* SPDX-License-Identifier: MIT */
#include <mqfs/message.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void array_clear(struct mqfs_array *array)
{
	for (size_t i = 0; i < array->count; i++)
		mqfs_value_clear(&array->values[i]);
	free(array->values);
	*array = (struct mqfs_array){0};
}

static void field_clear(struct mqfs_field *field)
{
	free(field->name);
	mqfs_value_clear(&field->value);
}

void mqfs_table_clear(struct mqfs_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		field_clear(&table->fields[i]);
	free(table->fields);
	*table = (struct mqfs_table){0};
}

void mqfs_value_clear(struct mqfs_value *value)
{
	switch (value->kind) {
	case 'S':
	case 'x':
		free(value->bytes.data);
		break;
	case 'A':
		array_clear(&value->array);
		break;
	case 'F':
		mqfs_table_clear(&value->table);
		break;
	}
	*value = (struct mqfs_value){.kind = 'V'};
}

static int bytes_copy(const void *data, size_t bytes, struct mqfs_bytes *ret_copy)
{
	char *copy = malloc(bytes + 1);

	if (!copy)
		return -ENOMEM;
	if (bytes > 0)
		memcpy(copy, data, bytes);
	copy[bytes] = '\0';
	*ret_copy = (struct mqfs_bytes){.data = copy, .bytes = bytes};
	return 0;
}

/* count goes up with each value that is whole, so that a failed copy can be cleared as it stands. */
static int array_copy(const struct mqfs_array *array, struct mqfs_array *ret_copy)
{
	struct mqfs_array copy = {0};
	int r = 0;

	if (array->count > 0) {
		copy.values = calloc(array->count, sizeof(*copy.values));
		if (!copy.values)
			return -ENOMEM;
	}
	for (; r == 0 && copy.count < array->count; copy.count += r == 0)
		r = mqfs_value_copy(&array->values[copy.count], &copy.values[copy.count]);
	if (r < 0)
		array_clear(&copy);
	else
		*ret_copy = copy;
	return r;
}

static int field_copy(const struct mqfs_field *field, struct mqfs_field *ret_copy)
{
	struct mqfs_field copy = {.name = strdup(field->name)};

	if (!copy.name)
		return -ENOMEM;
	if (mqfs_value_copy(&field->value, &copy.value) < 0) {
		free(copy.name);
		return -ENOMEM;
	}
	*ret_copy = copy;
	return 0;
}

static int table_copy(const struct mqfs_table *table, struct mqfs_table *ret_copy)
{
	struct mqfs_table copy = {0};
	int r = 0;

	if (table->count > 0) {
		copy.fields = calloc(table->count, sizeof(*copy.fields));
		if (!copy.fields)
			return -ENOMEM;
	}
	for (; r == 0 && copy.count < table->count; copy.count += r == 0)
		r = field_copy(&table->fields[copy.count], &copy.fields[copy.count]);
	if (r < 0)
		mqfs_table_clear(&copy);
	else
		*ret_copy = copy;
	return r;
}

int mqfs_value_copy(const struct mqfs_value *value, struct mqfs_value *ret_copy)
{
	struct mqfs_value copy = *value;
	int r = 0;

	switch (value->kind) {
	case 'S':
	case 'x':
		r = bytes_copy(value->bytes.data, value->bytes.bytes, &copy.bytes);
		break;
	case 'A':
		r = array_copy(&value->array, &copy.array);
		break;
	case 'F':
		r = table_copy(&value->table, &copy.table);
		break;
	}
	if (r == 0)
		*ret_copy = copy;
	return r;
}

static size_t value_encoded_bytes(const struct mqfs_value *value)
{
	size_t bytes = 4;

	switch (value->kind) {
	case 't':
	case 'b':
	case 'B':
		return 1;
	case 's':
	case 'u':
		return 2;
	case 'i':
	case 'I':
	case 'f':
		return 4;
	case 'D':
		return 5;
	case 'l':
	case 'L':
	case 'T':
	case 'd':
		return 8;
	case 'S':
	case 'x':
		return 4 + value->bytes.bytes;
	case 'A':
		for (size_t i = 0; i < value->array.count; i++)
			bytes += 1 + value_encoded_bytes(&value->array.values[i]);
		return bytes;
	case 'F':
		return mqfs_table_encoded_bytes(&value->table);
	default:
		return 0;
	}
}

size_t mqfs_table_encoded_bytes(const struct mqfs_table *table)
{
	size_t bytes = 4;

	for (size_t i = 0; i < table->count; i++) {
		const struct mqfs_field *field = &table->fields[i];

		bytes += 1 + strlen(field->name) + 1 + value_encoded_bytes(&field->value);
	}
	return bytes;
}

static struct mqfs_field *find(const struct mqfs_table *headers, const char *name)
{
	for (size_t i = 0; i < headers->count; i++)
		if (strcmp(headers->fields[i].name, name) == 0)
			return &headers->fields[i];
	return NULL;
}

const struct mqfs_value *mqfs_headers_get(const struct mqfs_table *headers, const char *name)
{
	const struct mqfs_field *field = find(headers, name);

	return field ? &field->value : NULL;
}

const char *mqfs_headers_string(const struct mqfs_table *headers, const char *name)
{
	const struct mqfs_value *value = mqfs_headers_get(headers, name);

	return value && value->kind == 'S' ? value->bytes.data : NULL;
}

static int64_t parse_integer(const struct mqfs_bytes *text, int64_t fallback)
{
	char *end;
	long long number;

	if (text->bytes == 0 || !strchr("-0123456789", text->data[0]))
		return fallback;
	errno = 0;
	number = strtoll(text->data, &end, 10);
	return errno == 0 && end == text->data + text->bytes ? number : fallback;
}

int64_t mqfs_headers_integer(const struct mqfs_table *headers, const char *name, int64_t fallback)
{
	const struct mqfs_value *value = mqfs_headers_get(headers, name);

	if (!value)
		return fallback;
	switch (value->kind) {
	case 'L': /* unsigned: what doesn't fit looks negative here */
		return value->integer >= 0 ? value->integer : fallback;
	case 'b':
	case 'B':
	case 's':
	case 'u':
	case 'i':
	case 'I':
	case 'l':
	case 'T':
		return value->integer;
	case 'S':
		return parse_integer(&value->bytes, fallback);
	default:
		return fallback;
	}
}

static int append(struct mqfs_table *headers, const char *name, const struct mqfs_value *value)
{
	struct mqfs_field *fields = realloc(headers->fields, (headers->count + 1) * sizeof(*fields));
	char *copy;

	if (!fields)
		return -ENOMEM;
	headers->fields = fields;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	fields[headers->count++] = (struct mqfs_field){.name = copy, .value = *value};
	return 0;
}

/* Takes over what value holds, also when it fails. */
static int put(struct mqfs_table *headers, const char *name, struct mqfs_value *value)
{
	struct mqfs_field *field = find(headers, name);
	int r;

	if (field) {
		mqfs_value_clear(&field->value);
		field->value = *value;
		return 0;
	}
	r = append(headers, name, value);
	if (r < 0)
		mqfs_value_clear(value);
	return r;
}

int mqfs_headers_set_bytes(struct mqfs_table *headers, const char *name, const void *data, size_t bytes)
{
	struct mqfs_value value = {.kind = 'S'};
	int r = bytes_copy(data, bytes, &value.bytes);

	return r < 0 ? r : put(headers, name, &value);
}

int mqfs_headers_set_string(struct mqfs_table *headers, const char *name, const char *text)
{
	return mqfs_headers_set_bytes(headers, name, text, strlen(text));
}

int mqfs_headers_set_integer(struct mqfs_table *headers, const char *name, int64_t number)
{
	struct mqfs_value value = {.kind = 'l', .integer = number};

	return put(headers, name, &value);
}

int mqfs_headers_set_value(struct mqfs_table *headers, const char *name, const struct mqfs_value *value)
{
	struct mqfs_value copy;
	int r = mqfs_value_copy(value, &copy);

	return r < 0 ? r : put(headers, name, &copy);
}

/* A stranger's table may have a name twice. What goes is swapped to the end and freed last: name may be a field's own.
 */
void mqfs_headers_remove(struct mqfs_table *headers, const char *name)
{
	struct mqfs_field *fields = headers->fields;
	size_t kept = 0;

	for (size_t i = 0; i < headers->count; i++) {
		if (strcmp(fields[i].name, name) != 0) {
			struct mqfs_field field = fields[i];

			fields[i] = fields[kept];
			fields[kept++] = field;
		}
	}
	while (headers->count > kept)
		field_clear(&fields[--headers->count]);
}
