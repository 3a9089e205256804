"""How good label maps are: compared with references, case by case and label by label, and summarised."""
