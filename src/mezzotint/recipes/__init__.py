"""Recipes: functions without arguments that return a complete ``Recipe``. One file a method; composition only."""
