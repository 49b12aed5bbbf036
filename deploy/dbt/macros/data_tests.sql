-- Return the values that do not have the form, a regular expression of Postgres. NULL is left to not_null.
{% test has_form(model, column_name, form) %}
SELECT {{ column_name }}
FROM {{ model }}
WHERE {{ column_name }} !~ '{{ form }}'
{% endtest %}

-- Return the combinations of values that several rows have. NULL counts as a value.
{% test unique_together(model, columns) %}
SELECT {{ columns | join(', ') }}, count(*) AS "rows"
FROM {{ model }}
GROUP BY {{ columns | join(', ') }}
HAVING count(*) > 1
{% endtest %}

-- Return the rows of which the condition is not true.
{% test holds(model, condition) %}
SELECT *
FROM {{ model }}
WHERE ({{ condition }}) IS NOT TRUE
{% endtest %}
