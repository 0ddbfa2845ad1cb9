/* SPDX-License-Identifier: MIT */
#ifndef MQFS_META_H
#define MQFS_META_H

#include <mqfs/delivery.h>
#include <mqfs/settings.h>

/*
 * meta.json (R3): id, queue, state ("pending", "claimed", "retry", "dead"), priority, attempts,
 * max_attempts, published_at, first_failed_at, last_failed_at, next_at, dead_at, dead_reason, error,
 * host, redelivered, claimed_by, claimed_at, expires_at, properties{}, headers{}, x_death[]. Every key is always there
 * (null when unknown). Times are RFC 3339 UTC; the text is always valid UTF-8 and ends in a newline (bytes that are not
 * UTF-8 become U+FFFD).
 *
 * The caller holds what guards the delivery's guarded fields. Returns a new string (free it), NULL
 * when out of memory. attempts counts the present one when the delivery is claimed.
 */
char *mqfs_meta_json(const struct mqfs_delivery *delivery, const struct mqfs_settings *settings);

/* Copies text, replacing what is not valid UTF-8 by U+FFFD. New string, or NULL. */
char *mqfs_utf8_repair(const void *text, size_t bytes);

#endif
